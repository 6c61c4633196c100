#include "vmm/core/stable_uuid.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/uuid/name_generator_sha1.hpp>
#include <boost/uuid/uuid.hpp>
#include <charconv>
#include <fstream>

namespace minivmm {

namespace {

// Ours, so that no other program that derives from the machine id gets the same (machine-id(5)).
constexpr boost::uuids::uuid kNamespace{
    {0x2c, 0x5f, 0x1d, 0x8e, 0x93, 0x0a, 0x4b, 0x67, 0xa1, 0x3e, 0x70, 0xd4, 0x58, 0xc9, 0x6b, 0x12}};

constexpr bool dash_before(size_t byte) {
  return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

}  // namespace

std::string host_identity(const std::filesystem::path& root) {
  for (const char* path : {"etc/machine-id", "var/lib/dbus/machine-id"}) {
    std::ifstream file(root / path);
    std::string id;
    std::getline(file, id);
    // It may also be empty (an image), or say "uninitialized" (during a first boot).
    const bool is_hex =
        std::ranges::all_of(id, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
    if (id.size() == 32 && is_hex) return id;
  }
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

Uuid stable_uuid(std::string_view name) {
  return stable_uuid(host_identity(), ::geteuid(), name);
}

Uuid stable_uuid(std::string_view host, uint32_t user, std::string_view name) {
  // The lengths keep apart what would read the same when written one after the other.
  const std::string all = fmt::format("{}:{}/{}/{}:{}", host.size(), host, user, name.size(), name);
  const boost::uuids::uuid made = boost::uuids::name_generator_sha1(kNamespace)(all.data(), all.size());
  Uuid out{};
  std::ranges::copy(made, out.begin());
  return out;
}

std::string uuid_text(const Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    text += fmt::format("{}{:02x}", dash_before(i) ? "-" : "", uuid[i]);
  }
  return text;
}

std::optional<Uuid> parse_uuid(std::string_view text) {
  constexpr size_t kLength = 36;
  if (text.size() != kLength) return std::nullopt;
  Uuid uuid{};
  const char* at = text.data();
  for (size_t i = 0; i < uuid.size(); ++i, at += 2) {
    if (dash_before(i) && *at++ != '-') return std::nullopt;
    const auto [end, error] = std::from_chars(at, at + 2, uuid[i], 16);
    if (error != std::errc{} || end != at + 2) return std::nullopt;
  }
  return uuid;
}

}  // namespace minivmm
