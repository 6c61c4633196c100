#include "vmm/core/error.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace minivmm {

HostError::HostError(int error_number, std::string message)
    : std::system_error(error_number, std::generic_category()), message_(std::move(message)) {}

ConfigError::ConfigError(std::string message) : HostError(EINVAL, std::move(message)) {}

void throw_errno(std::string_view tried, std::string_view mend) {
  const int error = errno;
  const std::string reason = std::generic_category().message(error);
  throw HostError(error, mend.empty() ? fmt::format("cannot {}: {}", tried, reason)
                                      : fmt::format("cannot {}: {}; {}", tried, reason, mend));
}

void check_failed(const char* expression, const std::source_location& where) {
  std::fprintf(stderr, "minivmm: %s:%u: broken invariant: %s\n", where.file_name(), where.line(), expression);
  std::abort();
}

}  // namespace minivmm
