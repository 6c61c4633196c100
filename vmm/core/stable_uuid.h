// Identifiers that a machine has at each start although nobody wrote them down: what its MAC addresses and
// its UUID are made from when the user gives none.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace minivmm {

using Uuid = std::array<uint8_t, 16>;  // in the order it is written (RFC 9562, 4)

// Of `name`, for this user of this host: the same each time, another for any other name, user or host. It
// does not tell what it is made from, which machine-id(5) asks for. Version 5 (RFC 9562, 5.5).
Uuid stable_uuid(std::string_view name);
// The same with the host and the user given.
Uuid stable_uuid(std::string_view host, uint32_t user, std::string_view name);

// This host: its machine-id(5), or its name where it has none, as in a container. `root` is for tests.
std::string host_identity(const std::filesystem::path& root = "/");

std::string uuid_text(const Uuid&);  // "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
// That form alone, in either case.
std::optional<Uuid> parse_uuid(std::string_view text);

}  // namespace minivmm
