#include "devices/block/foreign/qemu_nbd.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr const char* kProgram = "qemu-nbd";
constexpr uint64_t kDataLimit = uint64_t{2} << 30;  // bytes: the tables of a 1 PiB VDI, or of a hostile image
constexpr std::chrono::milliseconds kLastWords{2000};

struct Sockets {
  UniqueFd listening;
  UniqueFd connected;
};

// The connection waits in the listening socket's queue before anybody serves it, and the name has gone before
// anybody else could use it: nothing to race for, nothing to clean up.
Sockets connect_in_advance() {
  std::string folder = (std::filesystem::temp_directory_path() / "minivmm-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    throw_errno(fmt::format("make a folder {}", folder), "set TMPDIR to a folder where you can write");
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = folder + "/nbd";
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof address.sun_path - 1));
  const auto* const name = reinterpret_cast<const sockaddr*>(&address);
  Sockets out{UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
              UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  const bool good = out.listening && out.connected && path.size() < sizeof address.sun_path &&
                    ::bind(out.listening.get(), name, sizeof address) == 0 &&
                    ::listen(out.listening.get(), 1) == 0 &&
                    ::connect(out.connected.get(), name, sizeof address) == 0;
  const int error = errno;
  ::unlink(path.c_str());
  ::rmdir(folder.c_str());
  errno = path.size() < sizeof address.sun_path ? error : ENAMETOOLONG;
  if (!good) throw_errno(fmt::format("make a socket {}", path), "set TMPDIR to another folder");
  return out;
}

// No probing, no backing file; the lock is ours.
std::string image_options(const std::string& format) {
  return fmt::format(R"(json:{{"driver":"{}","read-only":true,"backing":null,"file":{{"driver":"file",)"
                     R"("filename":"/proc/self/fd/4","locking":"off"}}}})",
                     format);
}

}  // namespace

QemuNbd::QemuNbd(int image, const std::string& format, const std::string& what) {
  const std::string program = find_program(kProgram);
  if (program.empty()) {
    throw HostError(ENOENT, fmt::format("cannot use the {}: it is read with {}, which is not installed; "
                                        "install Debian's qemu-utils (apt-get install qemu-utils)",
                                        what, kProgram));
  }
  Sockets sockets = connect_in_advance();
  child_ = std::make_unique<ChildProcess>(
      ChildProcess::Plan{.command = {program, "--read-only", image_options(format)},
                         .environment = {"LISTEN_FDS=1"},
                         .descriptors = {sockets.listening.get(), image},
                         .data_limit = kDataLimit});
  socket_ = std::move(sockets.connected);
}

std::string QemuNbd::reason() {
  if (!child_->wait_ended(kLastWords)) return {};
  std::string text = child_->last_words();
  for (const std::string_view prefix : {"qemu-nbd: ", "Failed to blk_new_open ", "setpriv: "}) {
    if (text.starts_with(prefix)) text.erase(0, prefix.size());
  }
  return text.empty() ? fmt::format("{} ended without a word", kProgram) : text;
}

}  // namespace minivmm
