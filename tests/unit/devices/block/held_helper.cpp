#include "tests/unit/devices/block/held_helper.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm::test {

namespace {

constexpr int kDeadlineMs = 60'000;

// Of the calling process and all that it makes from now on; -1 and errno.
int listen_to_calls() {
  std::array<sock_filter, 5> code = {{
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SYS_pwrite64},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_fdatasync},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_USER_NOTIF},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  }};
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return static_cast<int>(
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
}

union Control {
  cmsghdr header;
  std::array<std::byte, CMSG_SPACE(sizeof(int))> bytes;
};

// One descriptor, or the errno of what went wrong.
void send_listener(int socket, int listener, int error) {
  Control control{};
  iovec text{&error, sizeof error};
  msghdr message{};
  message.msg_iov = &text;
  message.msg_iovlen = 1;
  if (listener >= 0) {
    message.msg_control = control.bytes.data();
    message.msg_controllen = control.bytes.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &listener, sizeof listener);
  }
  if (::sendmsg(socket, &message, 0) < 0) ::_exit(3);
}

UniqueFd receive_listener(int socket, int& error) {
  Control control{};
  iovec text{&error, sizeof error};
  msghdr message{};
  message.msg_iov = &text;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = control.bytes.size();
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) < 0) throw_errno("hear of the child");
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  int listener = -1;
  if (header != nullptr) std::memcpy(&listener, CMSG_DATA(header), sizeof listener);
  return UniqueFd(listener);
}

[[noreturn]] void be_the_child(int socket, const std::function<void()>& work) {
  const int listener = listen_to_calls();
  send_listener(socket, listener, listener < 0 ? errno : 0);
  if (listener < 0) ::_exit(0);
  ::close(listener);
  work();
  std::fflush(stdout);
  ::_exit(testing::Test::HasFailure() ? 1 : 0);
}

bool is_thread_of(pid_t process, uint32_t thread) {
  return std::filesystem::exists("/proc/" + std::to_string(process) + "/task/" + std::to_string(thread));
}

void end_child(pid_t child, int expected_signal) {
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (expected_signal != 0) {
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == expected_signal);
  } else {
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the child failed: " << status;
  }
}

}  // namespace

HeldHelper kill_at_call(unsigned at, const std::function<void()>& work, const std::function<void()>& killed) {
  HeldHelper seen;
  std::array<int, 2> sockets{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()) != 0) throw_errno("make a socket");
  const UniqueFd ours(sockets[0]);
  UniqueFd theirs(sockets[1]);  // the child's and its helpers': closed when the last of them has gone
  const pid_t child = ::fork();
  if (child < 0) throw_errno("start a child");
  if (child == 0) be_the_child(theirs.get(), work);
  theirs.reset();
  int error = 0;
  const UniqueFd listener = receive_listener(ours.get(), error);
  if (!listener) {
    end_child(child, 0);
    seen.unsupported =
        std::string("seccomp_unotify(2): ") + std::strerror(error);  // NOLINT(concurrency-mt-unsafe)
    return seen;
  }
  std::array<pollfd, 2> watched = {{{listener.get(), POLLIN, 0}, {ours.get(), POLLIN, 0}}};
  for (;;) {
    const int ready = ::poll(watched.data(), watched.size(), kDeadlineMs);
    EXPECT_GT(ready, 0) << "nothing happens any more";
    if (ready <= 0 || (watched[0].revents & POLLIN) == 0) break;
    seccomp_notif call{};
    if (::ioctl(listener.get(), SECCOMP_IOCTL_NOTIF_RECV, &call) != 0)
      continue;  // who called has been killed
    if (!is_thread_of(child, call.pid)) {
      ++seen.calls;
      if (seen.killed) ++seen.after;
      if (!seen.killed && seen.calls == at) {
        ::kill(child, SIGKILL);
        end_child(child, SIGKILL);
        seen.killed = true;
        killed();
      }
    }
    seccomp_notif_resp answer{};
    answer.id = call.id;
    answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    ::ioctl(listener.get(), SECCOMP_IOCTL_NOTIF_SEND, &answer);
  }
  if (!seen.killed) end_child(child, 0);
  return seen;
}

}  // namespace minivmm::test
