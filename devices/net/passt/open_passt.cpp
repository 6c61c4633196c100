#include "devices/net/passt/open_passt.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "devices/block/foreign/child_process.h"
#include "devices/net/passt/passt_backend.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

UniqueFd connect_to(const std::string& path) {
  const std::string tried = fmt::format("connect to passt at {}", path);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    throw HostError(ENAMETOOLONG, fmt::format("cannot {}: a socket's path has at most 107 bytes", tried));
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw_errno(
        tried,
        fmt::format("start it first: passt --socket {}; without socket= minivmm starts its own", path));
  return fd;
}

// A passt of our own, which ends with us.
class OwnPasst {
 public:
  OwnPasst(std::vector<std::string> command, Log& log) : command_(std::move(command)), log_(log) {}

  UniqueFd start() {
    if (child_) {
      child_->wait_ended(std::chrono::milliseconds(0));
      if (const std::string words = child_->last_words(); !words.empty())
        log_.write(LogLevel::warn, fmt::format("passt said: {}", words));
      child_.reset();
    }
    std::array<int, 2> pair{-1, -1};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0)
      throw_errno("make a socket for passt");
    UniqueFd ours(pair[0]);
    const UniqueFd theirs(pair[1]);
    // Ours alone: passt reads the rest of a frame whose beginning it has by waiting for it.
    if (::fcntl(ours.get(), F_SETFL, O_RDWR | O_NONBLOCK) != 0) throw_errno("set up the socket for passt");
    child_ = std::make_unique<ChildProcess>(
        ChildProcess::Plan{.command = command_, .descriptors = {theirs.get()}});
    return ours;
  }

 private:
  std::vector<std::string> command_;
  Log& log_;
  std::unique_ptr<ChildProcess> child_;
};

std::vector<std::string> command_of(const NetSpec& spec) {
  std::string program = find_program("passt");
  if (program.empty()) {
    throw HostError(
        ENOENT,
        "cannot start passt: it is not installed; apt-get install passt, or use --net user, which is "
        "built in");
  }
  // Its first descriptor besides the standard ones is our socket.
  std::vector<std::string> command{std::move(program), "--foreground", "--quiet", "--fd", "3"};
  for (const auto& [key, option] : {std::pair{"tcp", "--tcp-ports"}, std::pair{"udp", "--udp-ports"}}) {
    if (auto ports = spec.settings.get(key)) {
      command.emplace_back(option);
      command.push_back(std::move(*ports));
    }
  }
  return command;
}

}  // namespace

std::unique_ptr<NetBackend> create_passt_net(const NetSpec& spec, const NetContext& context) {
  if (spec.queues.value_or(1) != 1) throw ConfigError("--net passt queues: it has one");
  if (const auto path = spec.settings.get("socket")) {
    if (spec.settings.get("tcp") || spec.settings.get("udp"))
      throw ConfigError("--net passt socket: that passt has its own ports: no tcp or udp with it");
    return std::make_unique<PasstBackend>([path = *path] { return connect_to(path); }, context.log);
  }
  auto own = std::make_shared<OwnPasst>(command_of(spec), context.log);
  return std::make_unique<PasstBackend>([own] { return own->start(); }, context.log);
}

}  // namespace minivmm
