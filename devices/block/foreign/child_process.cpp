#include "devices/block/foreign/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string_view>
#include <system_error>

#include "vmm/core/error.h"
#include "vmm/core/quiet_thread.h"

namespace minivmm {

namespace {

constexpr size_t kMaxWords = 4096;  // bytes of standard error that are kept
constexpr int kGraceMs = 1000;      // to end by itself, once it is no longer wanted
constexpr int kFirstDescriptor = 3;
constexpr int kOutOfTheWay = 64;  // no descriptor that is still to be copied may be overwritten by another

std::string search_path() {
  const char* const path = std::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return path == nullptr ? "/usr/sbin:/usr/bin:/sbin:/bin" : path;
}

// The kernel kills a child with the thread that started it (PR_SET_PDEATHSIG, set by setpriv(1)), unless that
// has gone before: then the child finds another parent than the one it was told of. LISTEN_PID is what
// sd_listen_fds(3) wants.
constexpr const char* kGuard = "[ \"$PPID\" = \"$1\" ] || exit 1; shift; export LISTEN_PID=$$; exec \"$@\"";

std::vector<std::string> guarded(const std::vector<std::string>& command) {
  std::vector<std::string> out{"setpriv", "--pdeathsig", "KILL", "--no-new-privs",          "--", "/bin/sh",
                               "-c",      kGuard,        "sh",   std::to_string(::getpid())};
  out.insert(out.end(), command.begin(), command.end());
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

// What posix_spawn(3) does in the child.
class Actions {
 public:
  Actions() {
    posix_spawn_file_actions_init(&files_);
    posix_spawnattr_init(&attributes_);
    sigset_t signals;
    sigemptyset(&signals);
    posix_spawnattr_setsigmask(&attributes_, &signals);
    sigfillset(&signals);
    posix_spawnattr_setsigdefault(&attributes_, &signals);
    // A group of its own: Ctrl-C on our terminal is for us.
    posix_spawnattr_setflags(&attributes_,
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  ~Actions() {
    posix_spawn_file_actions_destroy(&files_);
    posix_spawnattr_destroy(&attributes_);
  }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;

  void pass(int fd, int as) {
    copies_.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, kOutOfTheWay));
    posix_spawn_file_actions_adddup2(&files_, copies_.back().get(), as);
  }
  void close_from(int fd) { posix_spawn_file_actions_addclosefrom_np(&files_, fd); }
  void no_input_or_output() {
    posix_spawn_file_actions_addopen(&files_, STDIN_FILENO, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&files_, STDIN_FILENO, STDOUT_FILENO);
  }
  const posix_spawn_file_actions_t* files() const { return &files_; }
  const posix_spawnattr_t* attributes() const { return &attributes_; }

 private:
  posix_spawn_file_actions_t files_{};
  posix_spawnattr_t attributes_{};
  std::vector<UniqueFd> copies_;
};

void limit(int pid, uint64_t data_bytes) {
  const rlimit data{data_bytes, data_bytes};
  const rlimit none{0, 0};
  // A failure leaves it without limits, or it has ended already: both are nothing to stop for.
  if (data_bytes != 0) ::prlimit(pid, RLIMIT_DATA, &data, nullptr);
  ::prlimit(pid, RLIMIT_CORE, &none, nullptr);
}

}  // namespace

std::string find_program(const std::string& program) {
  std::string path = search_path();
  for (std::string_view rest = path; !rest.empty();) {
    const size_t colon = std::min(rest.find(':'), rest.size());
    std::string candidate = fmt::format("{}/{}", rest.substr(0, colon), program);
    if (candidate.front() == '/' && ::access(candidate.c_str(), X_OK) == 0) return candidate;
    rest.remove_prefix(std::min(colon + 1, rest.size()));
  }
  return {};
}

ChildProcess::ChildProcess(Plan plan) {
  const std::string program = plan.command.front();
  try {
    thread_ = start_quiet_thread("helper", [this, moved = std::move(plan)] { keep(moved); });
  } catch (const std::system_error& e) {
    throw HostError(e.code().value(), fmt::format("cannot start {}: {}", program, e.what()));
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return start_error_ >= 0; });
  if (start_error_ == 0) return;
  const int error = start_error_;
  lock.unlock();
  thread_.join();
  errno = error;
  throw_errno(fmt::format("start {} by setpriv(1)", program), "install Debian's util-linux");
}

ChildProcess::~ChildProcess() {
  over_.signal();
  if (thread_.joinable()) thread_.join();
}

// The thread lives as long as the child does: the child would be killed with it.
void ChildProcess::keep(const Plan& plan) {
  const bool started = start(plan);
  if (started) watch();
}

bool ChildProcess::start(const Plan& plan) {
  std::array<int, 2> ends{-1, -1};
  // Never full for the child: what it says while nobody listens is lost.
  int error = ::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) == 0 ? 0 : errno;
  words_ = UniqueFd(ends[0]);
  const UniqueFd child_end(ends[1]);
  if (plan.prepare) plan.prepare();
  if (error == 0) {
    Actions actions;
    actions.no_input_or_output();
    actions.pass(child_end.get(), STDERR_FILENO);
    int as = kFirstDescriptor;
    for (const int fd : plan.descriptors) actions.pass(fd, as++);
    actions.close_from(as);
    std::vector<std::string> command = guarded(plan.command);
    std::vector<std::string> environment = plan.environment;
    environment.push_back("PATH=" + search_path());
    environment.emplace_back("LC_ALL=C");
    pid_t pid = -1;
    error = ::posix_spawnp(&pid, "setpriv", actions.files(), actions.attributes(), pointers(command).data(),
                           pointers(environment).data());
    if (error == 0) {
      pid_ = pid;
      limit(pid, plan.data_limit);
      pidfd_ = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    }
  }
  const std::scoped_lock lock(mutex_);
  start_error_ = error;
  changed_.notify_all();
  return error == 0;
}

void ChildProcess::watch() {
  bool asked = false;
  for (;;) {
    std::array<pollfd, 3> fds{
        {{pidfd_.get(), POLLIN, 0}, {words_.get(), POLLIN, 0}, {asked ? -1 : over_.fd(), POLLIN, 0}}};
    const int ready = ::poll(fds.data(), fds.size(), asked ? kGraceMs : -1);
    if ((fds[1].revents & POLLIN) != 0) hear();
    if ((fds[1].revents & POLLHUP) != 0) words_.reset();  // it has closed its standard error
    if (!pidfd_ && !words_) break;                        // no pidfd_open(2) here (5.3): the next best sign
    if ((fds[0].revents & POLLIN) != 0) break;
    if (fds[2].revents != 0) asked = true;
    if (ready == 0) break;
  }
  reap();
}

void ChildProcess::hear() {
  std::array<char, 1024> text{};
  for (;;) {
    const ssize_t count = ::read(words_.get(), text.data(), text.size());
    if (count <= 0) return;
    const std::scoped_lock lock(mutex_);
    heard_.append(text.data(), static_cast<size_t>(count));
    if (heard_.size() > kMaxWords) heard_.erase(0, heard_.size() - kMaxWords);
  }
}

void ChildProcess::reap() {
  ::kill(pid_, SIGKILL);  // not waited for yet, so the number is still its own
  // ECHILD: the program ignores SIGCHLD, or waits for all children itself.
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (words_) hear();
  const std::scoped_lock lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

bool ChildProcess::wait_ended(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [this] { return ended_; });
}

std::string ChildProcess::last_words() {
  const std::scoped_lock lock(mutex_);
  std::string_view text = heard_;
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  const size_t line = text.rfind('\n');
  if (line != std::string_view::npos) text.remove_prefix(line + 1);
  std::string out(text);
  std::ranges::replace_if(out, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return out;
}

}  // namespace minivmm
