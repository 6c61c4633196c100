// Another backing file's name, and a crash at any instant of writing it.
#include <algorithm>
#include <cctype>
#include <fstream>
#include <initializer_list>

#include "tests/unit/devices/block/crash_states.h"
#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

using minivmm::test::BlockLog;
using minivmm::test::CrashStates;
using minivmm::test::FileBytes;
using minivmm::test::for_each_choice;
using minivmm::test::LoggedFile;

struct Shape {
  const char* name;
  const char* options;
  bool bitmap = false;   // one more header extension
  size_t data_name = 0;  // one more, of an external data file with a name of so many letters
  bool refuses = false;  // some names have no room
};

class BackingName : public ImageTest, public testing::WithParamInterface<Shape> {
 protected:
  struct Named {
    std::string file, format;
    bool operator==(const Named&) const = default;
  };

  FileBytes contents_of(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    const std::vector<char> chars{std::istreambuf_iterator<char>(file), {}};
    const auto bytes = std::as_bytes(std::span(chars));
    return {bytes.begin(), bytes.end()};
  }
  void start() {
    const Shape& shape = GetParam();
    std::string options = shape.options;
    if (shape.data_name > 0) {
      data_ = std::string(shape.data_name / 2, 'd') + "/" + std::string(shape.data_name / 2, 'f');
      ASSERT_EQ(shell("mkdir " + data_.substr(0, shape.data_name / 2)), 0);
      options += (options.empty() ? "data_file=" : ",data_file=") + data_;
    }
    create("disk.qcow2", 1 << 20, options);
    if (shape.bitmap) {
      ASSERT_EQ(shell("qemu-img bitmap --add disk.qcow2 marks"), 0);
    }
    log_ = std::make_shared<BlockLog>(contents_of("disk.qcow2"));
    Image::Options with;
    if (shape.data_name > 0) with.data_file = BlockFile::open(path(data_), {});
    image_ = open(std::make_unique<LoggedFile>(log_), std::move(with));
    ASSERT_NE(image_, nullptr) << why_;
  }
  static std::vector<std::byte> extension_of(const Header& header, uint32_t type) {
    const Extension* found = find_extension(header, type);
    return found == nullptr ? std::vector<std::byte>{} : found->data;
  }
  // What the file says after a crash; all else that the header says is as ever.
  Named found_in(const FileBytes& bytes) {
    const uint64_t cluster = image_->header().cluster_size();
    std::string why;
    const auto header =
        decode_header(std::span(bytes).first(std::min<size_t>(cluster, bytes.size())), bytes.size(), why);
    EXPECT_TRUE(header) << why;
    if (!header) return {"(no header)", ""};
    EXPECT_EQ(header->data_file().value_or(""), data_);
    EXPECT_EQ(extension_of(*header, kExtensionBitmaps), extension_of(image_->header(), kExtensionBitmaps));
    EXPECT_EQ(header->l1_offset, image_->header().l1_offset);
    // With no name there is no format either, whatever is left of it.
    const Named found{header->backing_file, header->backing_format().value_or("")};
    return found.file.empty() ? Named{} : found;
  }
  // Every state after `begun` names `before` or `after`.
  void judge(uint64_t begun, const Named& before, const Named& after) {
    std::vector<uint64_t> times{log_->now()};
    for (const BlockLog::Sync& sync : log_->syncs())
      if (sync.done > begun) times.push_back(sync.done - 1);
    for (const uint64_t when : times) {
      const CrashStates states(*log_, when);
      const bool all = for_each_choice(states.choices(), 1 << 12, [&](std::span<const size_t> choice) {
        const Named found = found_in(states.state(choice));
        const bool good = found == before || found == after;
        ASSERT_TRUE(good) << "'" << found.file << "' (" << found.format << ") is neither '" << before.file
                          << "' nor '" << after.file << "'";
      });
      ASSERT_TRUE(all);
      if (HasFatalFailure()) return;
    }
  }

  std::shared_ptr<BlockLog> log_;
  std::unique_ptr<Image> image_;
  std::string data_;
};

TEST_P(BackingName, IsTheOldOneOrTheNewOneAfterACrash) {
  start();
  ASSERT_FALSE(HasFatalFailure());
  Named now;
  unsigned refused = 0;
  char letter = 'a';
  for (const size_t length :
       std::initializer_list<size_t>{5, 40, 300, 0, 300, 700, 700, 12, 700, 1023, 1000, 9, 0, 0, 450, 20}) {
    SCOPED_TRACE(fmt::format("a name of {} letters after one of {}", length, now.file.size()));
    Named next;
    if (length > 0) next = {std::string(length, letter), letter % 2 == 0 ? "raw" : "qcow2"};
    letter = letter == 'z' ? 'a' : static_cast<char>(letter + 1);
    const uint64_t begun = log_->tick();
    const auto done = engine_->run(image_->set_backing(*engine_, next.file, next.format));
    if (!done) {
      ASSERT_EQ(done.error().code, Errc::too_large) << done.error().what;
      ++refused;
      next = now;
    }
    judge(begun, now, next);
    if (HasFatalFailure()) return;
    EXPECT_EQ(found_in(log_->after_crash(log_->now(), [](size_t) { return true; })), next);
    EXPECT_EQ(image_->header().backing_file, next.file);
    now = next;
  }
  EXPECT_EQ(refused > 0, GetParam().refuses) << refused;
  ASSERT_TRUE(close(*image_));
  image_.reset();
  write_file("after.qcow2", log_->after_crash(log_->now(), [](size_t) { return false; }));
  if (!now.file.empty()) write_file(now.file, Bytes(1 << 20));
  EXPECT_EQ(check("after.qcow2"), 0);
  EXPECT_EQ(shell(fmt::format("qemu-img info --output=json after.qcow2 | grep '\"backing-filename\": \"{}\"'",
                              now.file)) == 0,
            !now.file.empty());
}

INSTANTIATE_TEST_SUITE_P(Shapes, BackingName,
                         testing::Values(Shape{"Default", ""}, Shape{"Version2", "compat=0.10"},
                                         Shape{"Bitmap", "", true}, Shape{"Zstd", "compression_type=zstd"},
                                         Shape{"DataFile", "", false, 30},
                                         Shape{"LongDataFile", "", false, 250},
                                         Shape{"LongerDataFile", "", true, 420, true},
                                         Shape{"OneSector", "cluster_size=512", false, 0, true},
                                         Shape{"TwoSectors", "cluster_size=1024", false, 0, true}),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace minivmm::qcow2::test
