#include "devices/seed/ssh_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "vmm/core/error.h"
#include "vmm/core/read_file.h"

namespace minivmm {

namespace {

constexpr uint64_t kMostBytes = uint64_t{256} << 10;

// "ssh-ed25519 AAAA… comment", perhaps with options before it. Each kind's name begins its data too, base64
// of four bytes of length (RFC 4253, 6.6): AAAA.
bool is_key(std::string_view line) {
  for (const std::string_view kind : {"ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"}) {
    for (size_t at = line.find(kind); at != std::string_view::npos; at = line.find(kind, at + 1)) {
      if (at != 0 && line[at - 1] != ' ' && line[at - 1] != '\t') continue;
      const size_t blank = line.find_first_of(" \t", at);
      if (blank != std::string_view::npos && line.substr(blank + 1).starts_with("AAAA")) return true;
    }
  }
  return false;
}

}  // namespace

std::vector<std::string> read_ssh_keys(const std::string& path) {
  const auto bytes = read_file(path, "SSH key", kMostBytes, "--ssh-key reads");
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.find("PRIVATE KEY-----") != std::string_view::npos) {
    throw ConfigError(
        fmt::format("--ssh-key {}: this is a private key, which no guest shall see; name the public one, "
                    "usually {}.pub",
                    path, path));
  }
  std::vector<std::string> keys;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    if (line.empty() || line.front() == '#') continue;
    const bool printable = std::ranges::none_of(
        line, [](char c) { return (static_cast<unsigned char>(c) < ' ' && c != '\t') || c == '\x7f'; });
    if (!printable || !is_key(line)) {
      throw ConfigError(fmt::format(
          "--ssh-key {}: this is no public SSH key; write the name of a file such as ~/.ssh/id_ed25519.pub",
          path));
    }
    keys.emplace_back(line);
  }
  if (keys.empty()) throw ConfigError(fmt::format("--ssh-key {}: the file holds no key", path));
  return keys;
}

}  // namespace minivmm
