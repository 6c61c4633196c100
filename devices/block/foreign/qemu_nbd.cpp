#include "devices/block/foreign/qemu_nbd.h"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "devices/block/foreign/served_socket.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr const char* kProgram = "qemu-nbd";
constexpr uint64_t kDataLimit = uint64_t{2} << 30;  // bytes: the tables of a 1 PiB VDI, or of a hostile image
constexpr std::chrono::milliseconds kLastWords{2000};

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
  ServedSocket sockets = connect_in_advance();
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
