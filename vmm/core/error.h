// Errors. What a guest, a file or the network can cause is a Result; what the host refuses us is a HostError.
#pragma once

#include <cstdint>
#include <expected>
#include <source_location>
#include <string>
#include <string_view>
#include <system_error>

namespace minivmm {

enum class Errc : uint8_t {
  out_of_range,  // an address, offset or index past what exists
  invalid,       // a value its specification forbids
  unsupported,   // legal, but not offered here
  too_large,     // past one of our own limits
  io,            // the host's I/O failed
  no_space,      // the host's disk or a table is full
  corrupt,       // stored data that contradicts itself
  closed,        // the other end has gone
};

// Cheap enough for a hot path: `what` is always a string literal.
struct Error {
  Errc code;
  const char* what;
};

template <class T>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(Errc code, const char* what) {
  return std::unexpected(Error{code, what});
}

// Set-up failed on the host. what() is one line: what was tried, on what, why, and what mends it.
class HostError : public std::system_error {
 public:
  HostError(int error_number, std::string message);
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

// The configuration makes no sense whatever the host is like: the command line ends with status 2.
class ConfigError : public HostError {
 public:
  explicit ConfigError(std::string message);
};

// Throws HostError "cannot <tried>: <strerror(errno)>[; <mend>]".
[[noreturn]] void throw_errno(std::string_view tried, std::string_view mend = {});

[[noreturn]] void check_failed(const char* expression, const std::source_location& where);

}  // namespace minivmm

// An invariant of our own code. Never for what a guest or a file can cause.
#define MV_CHECK(condition)                            \
  (static_cast<bool>(condition) ? static_cast<void>(0) \
                                : ::minivmm::check_failed(#condition, std::source_location::current()))
