// Runs a command and watches its KVM ioctls from outside, the same way for every program, static ones too: a seccomp
// filter hands the chosen ioctl to this process (seccomp_unotify(2)), which notes it and lets it go on unchanged.
//
//   observe run COMMAND...     prints "run NANOSECONDS", from execve to the first KVM_RUN, and ends the command there
//   observe memory COMMAND...  prints "pid N", then "ram ADDRESS BYTES" for each memory slot that is registered; goes
//                              on until the command ends
//   observe exec COMMAND...    prints "exec NANOSECONDS", CLOCK_MONOTONIC's, and becomes the command, unwatched
//
// The lines go to file descriptor 3. Status: 1 if the command ended without the ioctl waited for.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char* what) {
  fprintf(stderr, "observe: %s: %s\n", what, strerror(errno));
  exit(125);
}

// Every thread of this process and of what it becomes reports ioctl(fd, `request`) to the descriptor returned.
static int install_filter(uint32_t request) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, request, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) die("no_new_privs");
  int fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                        SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
  if (fd < 0) die("seccomp filter");
  return fd;
}

static void pass_fd(int socket, int fd) {
  char control[CMSG_SPACE(sizeof fd)] = {0}, byte = 0;
  struct iovec data = {&byte, 1};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (sendmsg(socket, &message, 0) < 0) die("sendmsg");
}

static int take_fd(int socket) {
  char control[CMSG_SPACE(sizeof(int))], byte;
  struct iovec data = {&byte, 1};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0 || !CMSG_FIRSTHDR(&message)) die("recvmsg");
  int fd;
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return fd;
}

static void report_ram(int listener, const struct seccomp_notif* call) {
  struct kvm_userspace_memory_region region;
  struct iovec ours = {&region, sizeof region}, theirs = {(void*)call->data.args[2], sizeof region};
  if (process_vm_readv((pid_t)call->pid, &ours, 1, &theirs, 1, 0) != (ssize_t)sizeof region ||
      ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &call->id) < 0)
    die("cannot read a memory slot's registration");
  if (region.memory_size)
    dprintf(3, "ram %llu %llu\n", (unsigned long long)region.userspace_addr, (unsigned long long)region.memory_size);
}

int main(int argc, char** argv) {
  if (argc < 3 || (strcmp(argv[1], "run") && strcmp(argv[1], "memory") && strcmp(argv[1], "exec"))) {
    fprintf(stderr, "usage: observe run|memory|exec COMMAND...\n");
    return 125;
  }
  fcntl(3, F_SETFD, FD_CLOEXEC);
  if (!strcmp(argv[1], "exec")) {
    dprintf(3, "exec %lld\n", (long long)now_ns());
    execvp(argv[2], argv + 2);
    die(argv[2]);
  }
  int until_run = !strcmp(argv[1], "run"), sockets[2];
  int64_t* began = mmap(NULL, sizeof *began, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (began == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0) die("set-up");

  pid_t child = fork();
  if (child < 0) die("fork");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = install_filter(until_run ? KVM_RUN : KVM_SET_USER_MEMORY_REGION);
    pass_fd(sockets[1], listener);
    close(listener);
    char go;  // the watcher is ready: only now does the clock run
    if (read(sockets[1], &go, 1) != 1) _exit(125);
    *began = now_ns();
    execvp(argv[2], argv + 2);
    die(argv[2]);
  }
  close(sockets[1]);
  int listener = take_fd(sockets[0]);
  if (!until_run) dprintf(3, "pid %d\n", child);
  if (write(sockets[0], "", 1) != 1) die("start");

  struct pollfd watched = {.fd = listener, .events = POLLIN};
  int seen = 0;
  for (;;) {
    if (poll(&watched, 1, -1) < 0) continue;
    if (!(watched.revents & POLLIN)) break;  // POLLHUP: nobody is left under the filter
    int64_t at = now_ns();
    struct seccomp_notif call = {0};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0) continue;  // its caller is gone
    seen = 1;
    if (until_run) {
      dprintf(3, "run %lld\n", (long long)(at - *began));
      kill(child, SIGKILL);
      break;
    }
    report_ram(listener, &call);
    struct seccomp_notif_resp answer = {.id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
  }
  int status;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 125) return 125;
  return seen ? 0 : 1;
}
