// Both engines keep the same promises.
#include "devices/block/io_engine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include "devices/block/io_sync.h"
#include "tests/temp_folder.h"
#include "vmm/core/fd.h"

namespace minivmm {
namespace {

class Engine : public testing::TestWithParam<IoEngine::Kind> {
 protected:
  void SetUp() override {
    try {
      engine_ = IoEngine::create(GetParam(), kDepth);
    } catch (const HostError& error) {
      GTEST_SKIP() << error.what();  // a host without io_uring
    }
    file_ = UniqueFd(::open((folder_.path() / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(file_);
  }

  // An operation that notes its end.
  struct Noted : IoOperation {
    std::vector<Noted*>* order = nullptr;
    int64_t result = -1;
    iovec piece{};
  };
  Noted& prepare(IoOperation::Kind kind, uint64_t offset, std::string& bytes) {
    auto& op = *operations_.emplace_back(std::make_unique<Noted>());
    op.kind = kind;
    op.fd = file_.get();
    op.offset = offset;
    op.piece = {bytes.data(), bytes.size()};
    op.pieces = std::span(&op.piece, 1);
    op.order = &ended_;
    op.done = [](IoOperation& self, int64_t result) {
      auto& noted = static_cast<Noted&>(self);
      noted.result = result;
      noted.order->push_back(&noted);
    };
    return op;
  }
  void run_all() {
    while (engine_->in_flight() > 0) {
      if (engine_->poll() == 0 && engine_->in_flight() > 0) engine_->wait();
    }
  }
  Task<int64_t> write(uint64_t offset, std::string bytes) {
    const iovec piece{bytes.data(), bytes.size()};
    co_return co_await engine_->write(file_.get(), offset, std::span(&piece, 1));
  }
  std::string read(uint64_t offset, size_t size) {
    std::string bytes(size, '\0');
    const ssize_t got = ::pread(file_.get(), bytes.data(), size, static_cast<off_t>(offset));
    return bytes.substr(0, static_cast<size_t>(std::max<ssize_t>(got, 0)));
  }

  static constexpr unsigned kDepth = 8;
  test::TempFolder folder_;
  UniqueFd file_;
  std::vector<std::unique_ptr<Noted>> operations_;
  std::vector<Noted*> ended_;
  std::string unused_;
  std::unique_ptr<IoEngine> engine_;
};

TEST_P(Engine, IsOfTheKindAskedFor) {
  EXPECT_EQ(engine_->kind(), GetParam());
}

TEST_P(Engine, MoreOperationsThanTheKernelIsGivenAllEnd) {
  std::vector<std::string> blocks(kDepth * 20);
  for (size_t i = 0; i < blocks.size(); ++i) {
    blocks[i] = std::string(512, static_cast<char>('a' + i % 26));
    engine_->start(prepare(IoOperation::Kind::write, 512 * i, blocks[i]));
  }
  EXPECT_EQ(engine_->in_flight(), blocks.size());
  EXPECT_TRUE(ended_.empty());  // nothing is told from within start()
  run_all();
  EXPECT_EQ(ended_.size(), blocks.size());
  for (const Noted* op : ended_) EXPECT_EQ(op->result, 512);
  for (size_t i = 0; i < blocks.size(); ++i) EXPECT_EQ(read(512 * i, 512), blocks[i]);
}

TEST_P(Engine, AnOperationThatWaitsDoesNotHoldUpOthers) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const UniqueFd out(pipe[0]);
  const UniqueFd in(pipe[1]);
  std::string waited(4, '\0');
  Noted& reads = prepare(IoOperation::Kind::read, ~uint64_t{0}, waited);  // where the pipe is at
  reads.fd = out.get();
  std::string bytes = "quick";
  Noted& writes = prepare(IoOperation::Kind::write, 0, bytes);
  engine_->start(reads);
  engine_->start(writes);
  while (ended_.empty()) {
    if (engine_->poll() == 0) engine_->wait();
  }
  EXPECT_EQ(ended_, std::vector<Noted*>{&writes});
  EXPECT_EQ(engine_->in_flight(), 1U);
  ASSERT_EQ(::write(in.get(), "done", 4), 4);
  run_all();
  EXPECT_EQ(waited, "done");
}

TEST_P(Engine, ErrorsAndShortTransfersAreTold) {
  std::string bytes(512, 'x');
  Noted& bad = prepare(IoOperation::Kind::write, 0, bytes);
  bad.fd = -1;
  std::string in(100, '\0');
  ASSERT_EQ(::pwrite(file_.get(), "abc", 3, 0), 3);
  Noted& partly = prepare(IoOperation::Kind::read, 1, in);
  std::string none(10, '\0');
  Noted& past = prepare(IoOperation::Kind::read, 100, none);
  for (Noted* op : {&bad, &partly, &past}) engine_->start(*op);
  run_all();
  EXPECT_EQ(bad.result, -EBADF);
  EXPECT_EQ(partly.result, 2);
  EXPECT_EQ(past.result, 0);
}

TEST_P(Engine, ScattersAndGathers) {
  const auto task = [this]() -> Task<bool> {
    std::string a = "hello ";
    std::string b = "world";
    const std::array<iovec, 2> out{{{a.data(), a.size()}, {b.data(), b.size()}}};
    const int64_t written = co_await engine_->write(file_.get(), 7, out);
    std::string c(3, '\0');
    std::string d(8, '\0');
    const std::array<iovec, 2> in{{{c.data(), c.size()}, {d.data(), d.size()}}};
    const int64_t got = co_await engine_->read(file_.get(), 7, in);
    co_return written == 11 && got == 11 && c == "hel" && d == "lo world";
  };
  EXPECT_TRUE(engine_->run(task()));
}

TEST_P(Engine, AllocatesAndSyncs) {
  const auto task = [this]() -> Task<int64_t> {
    const int64_t allocated = co_await engine_->allocate(file_.get(), 0, 0, 8192);
    if (allocated != 0) co_return allocated;
    co_return co_await engine_->datasync(file_.get());
  };
  EXPECT_EQ(engine_->run(task()), 0);
  EXPECT_EQ(std::filesystem::file_size(folder_.path() / "file"), 8192U);
}

TEST_P(Engine, TasksOverlapAndEndInAnyOrder) {
  unsigned ended = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    spawn(write(i * 4096, std::string(4096, static_cast<char>('A' + i % 26))), [&](int64_t moved) {
      EXPECT_EQ(moved, 4096);
      ++ended;
    });
  }
  run_all();
  EXPECT_EQ(ended, 100U);
}

TEST_P(Engine, AnOperationMayStartTheNextOne) {
  const auto chain = [this]() -> Task<int64_t> {
    int64_t sum = 0;
    for (uint64_t i = 0; i < 1000; ++i) sum += co_await write(i, "x");
    co_return sum;
  };
  EXPECT_EQ(engine_->run(chain()), 1000);
}

TEST_P(Engine, LoopsOfTasksThatEndAtOnceUseNoStack) {
  const auto at_once = []() -> Task<int> { co_return 1; };
  const auto loop = [&]() -> Task<int> {
    int sum = 0;
    for (int i = 0; i < 200'000; ++i) sum += co_await at_once();
    co_return sum;
  };
  EXPECT_EQ(engine_->run(loop()), 200'000);
}

TEST_P(Engine, RunsOnItsThreadWhatOthersPost) {
  struct Note : IoPosted {
    std::thread::id ran_on;
    unsigned* count = nullptr;
  };
  unsigned count = 0;
  std::vector<Note> notes(1000);
  for (Note& note : notes) {
    note.count = &count;
    note.run = [](IoPosted& self) {
      auto& mine = static_cast<Note&>(self);
      mine.ran_on = std::this_thread::get_id();
      ++*mine.count;
    };
  }
  std::vector<std::thread> posters;
  for (size_t first = 0; first < notes.size(); first += 250) {
    posters.emplace_back([&, first] {
      for (size_t i = first; i < first + 250; ++i) engine_->post(notes[i]);
    });
  }
  while (count < notes.size()) {
    if (engine_->poll() == 0) engine_->wait();
  }
  for (std::thread& poster : posters) poster.join();
  for (const Note& note : notes) EXPECT_EQ(note.ran_on, std::this_thread::get_id());
}

TEST_P(Engine, ItsDescriptorIsSignalledForEndsAndForPosts) {
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  ASSERT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, engine_->fd(), &event), 0);
  std::thread user([&] {  // whom the engine belongs to from now on
    const auto sleep_until = [&](const auto& done) {
      while (!done()) {
        if (engine_->poll() > 0 || done()) continue;
        epoll_event woken{};
        ASSERT_EQ(::epoll_wait(epoll.get(), &woken, 1, 10'000), 1);
      }
    };
    Noted& op = prepare(IoOperation::Kind::datasync, 0, unused_);
    op.pieces = {};
    engine_->start(op);
    sleep_until([&] { return !ended_.empty(); });
    struct Note : IoPosted {
      bool ran = false;
    } note;
    note.run = [](IoPosted& self) { static_cast<Note&>(self).ran = true; };
    std::thread poster([&] { engine_->post(note); });
    sleep_until([&] { return note.ran; });
    poster.join();
  });
  user.join();
}

TEST_P(Engine, IsReadyOnlyWhenThereIsSomethingToDo) {
  EXPECT_FALSE(engine_->ready());
  IoPosted posted;
  posted.run = [](IoPosted&) {};
  engine_->post(posted);
  EXPECT_TRUE(engine_->ready());
  EXPECT_EQ(engine_->poll(), 1U);
  EXPECT_FALSE(engine_->ready());
}

TEST_P(Engine, AMutexIsHandedToATaskOfAnotherEngine) {
  IoMutex mutex;
  ASSERT_TRUE(mutex.try_lock());
  EventFd entering;
  unsigned inside = 0;
  std::thread other([&] {
    const auto engine = IoEngine::create(GetParam(), 4);
    const auto task = [&]() -> Task<bool> {
      entering.signal();
      co_await mutex.lock(*engine);
      ++inside;
      mutex.unlock();
      co_return true;
    };
    EXPECT_TRUE(engine->run(task()));
  });
  pollfd entered{entering.fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&entered, 1, 10'000), 1);
  EXPECT_EQ(inside, 0U);
  mutex.unlock();
  other.join();
  EXPECT_EQ(inside, 1U);
}

std::string kind_name(const testing::TestParamInfo<IoEngine::Kind>& param) {
  return param.param == IoEngine::Kind::uring ? "uring" : "threads";
}
INSTANTIATE_TEST_SUITE_P(Kinds, Engine, testing::Values(IoEngine::Kind::uring, IoEngine::Kind::threads),
                         kind_name);

}  // namespace
}  // namespace minivmm
