#include "image_files.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>

#include "devices/block/qcow2/metadata_io.h"

namespace minivmm::test {

Program run_program(const std::vector<std::string>& words) {
  std::array<int, 2> ends{};
  MV_CHECK(::pipe(ends.data()) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDOUT_FILENO);
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  ::close(ends[1]);
  Program program;
  std::array<char, 4096> piece{};
  for (ssize_t got = 0; (got = ::read(ends[0], piece.data(), piece.size())) > 0;)
    program.output.append(piece.data(), static_cast<size_t>(got));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  program.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  EXPECT_NE(program.status, 127) << words[0] << " is not installed: tools/deps build";
  return program;
}

uint64_t json_number(const std::string& json, const std::string& key) {
  const size_t at = json.find("\"" + key + "\": ");
  if (at == std::string::npos) return 0;
  return std::strtoull(json.c_str() + at + key.size() + 4, nullptr, 10);
}

bool json_has(const std::string& json, const std::string& key, const std::string& value) {
  return json.find("\"" + key + "\": " + value) != std::string::npos;
}

std::string ImageFiles::make(const std::string& name, const std::string& options, const std::string& size,
                             const std::vector<std::string>& commands) {
  std::string image = path(name);
  Program made = run_program({"qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, size});
  EXPECT_EQ(made.status, 0) << made.output;
  if (!commands.empty()) {
    std::vector<std::string> words{"qemu-io", "-t", "unsafe", "-f", "qcow2", image};
    for (const std::string& command : commands) words.insert(words.end() - 1, {"-c", command});
    made = run_program(words);
    EXPECT_EQ(made.status, 0) << made.output;
  }
  return image;
}

ImageFiles::Findings ImageFiles::qemu_check(const std::string& image) {
  const Program program = run_program({"qemu-img", "check", "-f", "qcow2", "--output=json", image});
  // The problems come first, on stderr.
  const std::string json = program.output.substr(std::min(program.output.find("{\n"), program.output.size()));
  return {program.status,
          json_number(json, "corruptions"),
          json_number(json, "leaks"),
          json_number(json, "total-clusters"),
          json_number(json, "allocated-clusters"),
          json_number(json, "compressed-clusters"),
          json_number(json, "fragmented-clusters"),
          json_number(json, "image-end-offset")};
}

std::string ImageFiles::qemu_info(const std::string& image) {
  Program program = run_program({"qemu-img", "info", "--output=json", image});
  EXPECT_EQ(program.status, 0) << program.output;
  return std::move(program.output);
}

qcow2::CheckResult ImageFiles::check(const std::string& image, qcow2::Repair repair) {
  const auto file = BlockFile::open(image, {.read_only = repair == qcow2::Repair::none});
  std::string why;
  qcow2::CheckOptions options;
  options.repair = repair;
  auto result = engine_->run(qcow2::check_image(*engine_, *file, options, why));
  EXPECT_TRUE(result) << why;
  return result ? std::move(*result) : qcow2::CheckResult{};
}

qcow2::Header ImageFiles::header(const std::string& image) {
  const auto file = BlockFile::open(image, {.read_only = true});
  std::string why;
  auto header = engine_->run(qcow2::read_header(*engine_, *file, why));
  EXPECT_TRUE(header) << why;
  return header ? std::move(*header) : qcow2::Header{};
}

void ImageFiles::expect_clean(const std::string& image) {
  const qcow2::CheckResult ours = check(image);
  EXPECT_EQ(ours.corruptions, 0U) << testing::PrintToString(ours.messages);
  EXPECT_EQ(ours.leaks, 0U) << testing::PrintToString(ours.messages);
  expect_agreement(image);
}

void ImageFiles::expect_agreement(const std::string& image) {
  const qcow2::CheckResult ours = check(image);
  const Findings theirs = qemu_check(image);
  EXPECT_EQ(ours.corruptions, theirs.corruptions) << testing::PrintToString(ours.messages);
  EXPECT_EQ(ours.leaks, theirs.leaks) << testing::PrintToString(ours.messages);
  EXPECT_EQ(ours.image_end, theirs.image_end);
  if (theirs.status != 0) return;  // qemu-img leaves these out then
  EXPECT_EQ(ours.total_clusters, theirs.total);
  EXPECT_EQ(ours.allocated_clusters, theirs.allocated);
  EXPECT_EQ(ours.compressed_clusters, theirs.compressed);
  EXPECT_EQ(ours.fragmented_clusters, theirs.fragmented);
}

uint64_t ImageFiles::peek64(const std::string& file, uint64_t offset) {
  std::ifstream in(file, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(offset));
  std::array<std::byte, 8> bytes{};
  in.read(reinterpret_cast<char*>(bytes.data()), bytes.size());
  EXPECT_TRUE(in.good()) << file << " at " << offset;
  return qcow2::load_be64(bytes.data());
}

void ImageFiles::poke64(const std::string& file, uint64_t offset, uint64_t value) {
  std::array<std::byte, 8> bytes{};
  qcow2::store_be64(bytes.data(), value);
  const auto* first = reinterpret_cast<const uint8_t*>(bytes.data());
  poke(file, offset, {first, first + bytes.size()});
}

void ImageFiles::poke(const std::string& file, uint64_t offset, const std::vector<uint8_t>& bytes) {
  std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(static_cast<std::streamoff>(offset));
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(out.good()) << file << " at " << offset;
}

}  // namespace minivmm::test
