#include "vmm/core/unix_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

#include "tests/temp_folder.h"

namespace minivmm::test {
namespace {

class UnixSocket : public testing::Test {
 protected:
  UnixListener listen() const { return listen_on_unix_socket(path_, "test", 4); }
  // What a program leaves behind that was killed.
  void leave_stale_socket() const {
    const std::string elsewhere = path_ + "2";
    {
      const UnixListener listener = listen_on_unix_socket(elsewhere, "test", 4);
      std::filesystem::rename(elsewhere, path_);
    }
    ASSERT_TRUE(std::filesystem::is_socket(path_));
  }
  bool answers() const { return connect_to_unix_socket(path_).has_value(); }

  TempFolder folder_;
  std::string path_ = (folder_.path() / "socket").string();
};

TEST_F(UnixSocket, ItsPathGoesWithIt) {
  {
    const UnixListener listener = listen();
    EXPECT_TRUE(answers());
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(UnixSocket, OneThatIsListenedOnIsNotReplacedAndADeadOneIs) {
  leave_stale_socket();
  EXPECT_FALSE(answers());
  const UnixListener listener = listen();
  EXPECT_TRUE(answers());
  EXPECT_THROW(listen(), HostError);
  EXPECT_TRUE(answers());
}

TEST_F(UnixSocket, WhatIsNoSocketIsNotTouched) {
  std::filesystem::create_directory(path_);
  EXPECT_THROW(listen(), HostError);
  EXPECT_TRUE(std::filesystem::is_directory(path_));
}

TEST_F(UnixSocket, APathThatIsAnothersByThenIsLeft) {
  std::optional<UnixListener> first = listen();
  std::filesystem::remove(path_);
  const UnixListener second = listen();
  first.reset();
  EXPECT_TRUE(answers());
}

TEST_F(UnixSocket, OfManyThatFindItStaleAtOnceOneHasIt) {
  for (int round = 0; round < 20; ++round) {
    leave_stale_socket();
    std::vector<std::optional<UnixListener>> listeners(4);
    std::atomic<bool> go{false};
    std::vector<std::thread> threads;
    threads.reserve(listeners.size());
    for (auto& listener : listeners) {
      threads.emplace_back([&] {
        while (!go) std::this_thread::yield();
        try {
          listener = listen();
        } catch (const HostError&) {
          listener.reset();
        }
      });
    }
    go = true;
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(std::ranges::count_if(listeners, [](const auto& l) { return l.has_value(); }), 1) << round;
    ASSERT_TRUE(answers());
  }
}

TEST_F(UnixSocket, AFolderThatAStrangerKeepsLockedIsUsedAllTheSame) {
  const UniqueFd folder(::open(folder_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(::flock(folder.get(), LOCK_EX), 0);
  const UnixListener listener = listen();
  EXPECT_TRUE(answers());
}

}  // namespace
}  // namespace minivmm::test
