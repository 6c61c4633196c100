#include "devices/block/unkillable.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <string>
#include <vector>

#include "tests/unit/devices/block/held_helper.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {
namespace {

UniqueFd file_of(const std::string& text) {
  UniqueFd fd(::memfd_create("file", MFD_CLOEXEC));
  if (::pwrite(fd.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
    throw_errno("fill it");
  return fd;
}

std::string text_of(const UniqueFd& fd) {
  std::string text(static_cast<size_t>(::lseek(fd.get(), 0, SEEK_END)), '?');
  EXPECT_EQ(::pread(fd.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  return text;
}

FileCall write_of(uint64_t offset, const std::string& text) {
  return {FileCall::Kind::write, offset, reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

FileCalls work_on(const UniqueFd& fd, const std::vector<FileCall>& calls) {
  FileCalls work;
  work.fd = fd.get();
  work.calls = calls.data();
  work.count = calls.size();
  return work;
}

TEST(Unkillable, MakesAllCallsInTheirOrder) {
  const UniqueFd fd = file_of("0123456789");
  const std::string first = "abcdef";
  const std::string second = "XY";
  const std::vector<FileCall> calls = {write_of(2, first), {FileCall::Kind::datasync}, write_of(4, second)};
  FileCalls work = work_on(fd, calls);
  run_unkillable(work);
  EXPECT_EQ(work.error, 0);
  EXPECT_EQ(work.done, 3U);
  EXPECT_EQ(text_of(fd), "01abXYef89");
}

TEST(Unkillable, StopsAtTheFirstCallThatFails) {
  const UniqueFd fd = file_of("0123456789");
  const std::string text = "ab";
  const std::vector<FileCall> calls = {
      write_of(0, text), {FileCall::Kind::write, 0, nullptr, 1 << 20}, write_of(4, text)};
  FileCalls work = work_on(fd, calls);
  run_unkillable(work);
  EXPECT_EQ(work.error, EFAULT);
  EXPECT_EQ(work.done, 1U);
  EXPECT_FALSE(work.in_sync);
  EXPECT_EQ(text_of(fd), "ab23456789");
}

TEST(Unkillable, WritesPartsOfBlocksWithWhatIsAroundThem) {
  const UniqueFd fd = file_of(std::string(40, '.'));
  const std::string text = "abcdefghijklmnopqrstuvwxyz";
  const std::vector<FileCall> calls = {write_of(3, text), write_of(37, text)};
  FileCalls work = work_on(fd, calls);
  std::array<std::byte, 16> buffer;
  work.block = 8;
  work.buffer = buffer.data();
  work.buffer_bytes = buffer.size();
  run_unkillable(work);
  EXPECT_EQ(work.error, 0);
  EXPECT_EQ(text_of(fd), "..." + text + std::string(8, '.') + text + '\0');
}

TEST(Unkillable, LeavesTheProgramsOwnChildrenAlone) {
  sigset_t child;
  sigset_t before;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  ASSERT_EQ(::sigprocmask(SIG_BLOCK, &child, &before), 0);
  EXPECT_TRUE(can_be_unkillable());
  sigset_t waiting;
  ASSERT_EQ(::sigpending(&waiting), 0);
  EXPECT_EQ(sigismember(&waiting, SIGCHLD), 0);
  EXPECT_EQ(::waitpid(-1, nullptr, __WALL), -1);
  EXPECT_EQ(errno, ECHILD);  // no zombie is left
  ASSERT_EQ(::sigprocmask(SIG_SETMASK, &before, nullptr), 0);
}

TEST(Unkillable, GoesOnAfterTheProcessWasKilled) {
  const UniqueFd fd = file_of(std::string(6, '.'));
  const std::string text = "abcdef";
  const auto work_in_child = [&] {
    std::vector<FileCall> calls;
    for (size_t i = 0; i < text.size(); ++i) {
      calls.push_back(write_of(i, text));
      calls.back().length = 1;
      calls.back().bytes += i;
      calls.push_back({FileCall::Kind::datasync});
    }
    FileCalls work = work_on(fd, calls);
    run_unkillable(work);
  };
  for (unsigned at = 1; at <= 12; ++at) {
    ASSERT_EQ(::pwrite(fd.get(), "......", 6, 0), 6);
    const auto seen = test::kill_at_call(at, work_in_child, [&] {
      EXPECT_EQ(text_of(fd), text.substr(0, at / 2) + std::string(6 - at / 2, '.'));
    });
    if (!seen.unsupported.empty()) GTEST_SKIP() << seen.unsupported;
    EXPECT_TRUE(seen.killed);
    EXPECT_EQ(seen.after, 12 - at);
    EXPECT_EQ(text_of(fd), text);
  }
}

}  // namespace
}  // namespace minivmm
