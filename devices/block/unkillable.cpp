#include "devices/block/unkillable.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <memory>

// What the helper runs: system calls and its own stack. No allocation, no lock, no destructor; and no
// sanitizer, which would take it for the thread that it was cloned from. (That thread sleeps meanwhile, so
// that its errno is the helper's to use.)
#define MINIVMM_BARE __attribute__((no_sanitize("address", "thread", "undefined")))

namespace minivmm {

namespace {

struct alignas(64) Stack {
  std::array<std::byte, size_t{64} << 10> bytes;
};

MINIVMM_BARE bool again() {
  return errno == EINTR || errno == EAGAIN;
}

// Both: 0 or an errno.
MINIVMM_BARE int write_all(int fd, const std::byte* bytes, uint64_t length, uint64_t offset) {
  while (length > 0) {
    const long moved = ::syscall(SYS_pwrite64, fd, bytes, length, offset);
    if (moved < 0 && again()) continue;
    if (moved < 0) return errno;
    if (moved == 0) return EIO;
    bytes += moved;
    offset += static_cast<uint64_t>(moved);
    length -= static_cast<uint64_t>(moved);
  }
  return 0;
}

// What lies past the file's end is zeroes.
MINIVMM_BARE int read_blocks(const FileCalls& work, uint64_t length, uint64_t offset) {
  uint64_t have = 0;
  while (have < length) {
    const long moved = ::syscall(SYS_pread64, work.fd, work.buffer + have, length - have, offset + have);
    if (moved < 0 && again()) continue;
    if (moved < 0) return errno;
    have += static_cast<uint64_t>(moved);
    if (moved == 0 || have % work.block != 0) break;
  }
  for (; have < length; ++have) work.buffer[have] = std::byte{0};
  return 0;
}

MINIVMM_BARE int write_blocks(const FileCalls& work, const FileCall& call) {
  const uint64_t block = work.block;
  for (uint64_t done = 0; done < call.length;) {
    const uint64_t at = call.offset + done;
    const uint64_t begin = at / block * block;
    uint64_t end = (call.offset + call.length + block - 1) / block * block;
    if (end - begin > work.buffer_bytes) end = begin + work.buffer_bytes;
    const uint64_t bytes = call.length - done < end - at ? call.length - done : end - at;
    int error = bytes == end - begin ? 0 : read_blocks(work, end - begin, begin);
    for (uint64_t i = 0; i < bytes; ++i) work.buffer[at - begin + i] = call.bytes[done + i];
    if (error == 0) error = write_all(work.fd, work.buffer, end - begin, begin);
    if (error != 0) return error;
    done += bytes;
  }
  return 0;
}

MINIVMM_BARE int sync_data(int fd) {
  while (::syscall(SYS_fdatasync, fd) != 0) {
    if (!again()) return errno;
  }
  return 0;
}

MINIVMM_BARE int make_call(const FileCalls& work, const FileCall& call) {
  if (call.kind == FileCall::Kind::datasync) return sync_data(work.fd);
  if (work.block > 1) return write_blocks(work, call);
  return write_all(work.fd, call.bytes, call.length, call.offset);
}

MINIVMM_BARE void make_calls(FileCalls& work) {
  for (size_t i = 0; i < work.count; ++i) {
    work.in_sync = work.calls[i].kind == FileCall::Kind::datasync;
    const int error = make_call(work, work.calls[i]);
    if (error != 0) {
      work.error = error;
      return;
    }
    work.done = i + 1;
  }
  work.error = 0;
}

// The helper, from its start to its end. Out of our process group before it has changed anything.
MINIVMM_BARE int helper(void* work) {
  ::syscall(SYS_setpgid, 0, 0);
  make_calls(*static_cast<FileCalls*>(work));
  return 0;
}

// Its exit tells nobody but us: the signal number in the flags is 0. CLONE_VFORK: we sleep until then.
constexpr int kFlags = CLONE_VM | CLONE_FILES | CLONE_VFORK;

// -1 and errno: there is no helper.
MINIVMM_BARE long start_helper(Stack& stack, FileCalls& work) {
  std::byte* top = stack.bytes.data() + stack.bytes.size();
#if defined(__x86_64__)
  // Not clone(3): ThreadSanitizer takes that for a fork, and has both of us leave its locks.
  register auto r8 asm("r8") = 0L;         // the thread-local storage: ours
  register auto r10 asm("r10") = 0L;       // where to write a thread id: nowhere
  register auto run asm("r12") = &helper;  // both survive the system call, on either side
  register auto* argument asm("r13") = &work;
  long result = SYS_clone;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xorl %%ebp, %%ebp\n\t"  // the outermost frame
      "movq %[argument], %%rdi\n\t"
      "callq *%[run]\n\t"
      "movl %%eax, %%edi\n\t"
      "movl %[exit], %%eax\n\t"
      "syscall\n\t"
      "hlt\n"
      "1:"
      : "+a"(result)
      : "D"(long{kFlags}), "S"(top), "d"(0L), "r"(r8),
        "r"(r10), [run] "r"(run), [argument] "r"(argument), [exit] "i"(SYS_exit)
      : "rcx", "r11", "memory", "cc");
  if (result >= 0) return result;
  errno = static_cast<int>(-result);
  return -1;
#else
  return ::clone(helper, top, kFlags, &work);
#endif
}

// False: there was no helper.
bool run_helper(FileCalls& work) {
  const auto stack = std::make_unique_for_overwrite<Stack>();
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited: no handler of the program's runs in the helper
  work.done = 0;
  work.error = ECANCELED;
  const long helper = start_helper(*stack, work);
  // It has ended: this only takes its zombie away.
  while (helper > 0 && ::waitpid(static_cast<pid_t>(helper), nullptr, __WALL) < 0 && errno == EINTR) {
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return helper > 0;
}

}  // namespace

void run_unkillable(FileCalls& work) {
  constexpr unsigned kAll = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  if (work.settle && ::sync_file_range(work.fd, 0, 0, kAll) != 0 &&
      (errno == EIO || errno == ENOSPC || errno == EDQUOT)) {  // which no later sync reports again
    work.error = errno;
    work.in_sync = true;
    return;
  }
  if (!run_helper(work)) make_calls(work);
}

bool can_be_unkillable() {
  FileCalls nothing;
  return run_helper(nothing);
}

}  // namespace minivmm
