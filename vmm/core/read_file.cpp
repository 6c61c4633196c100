#include "vmm/core/read_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

std::vector<std::byte> read_file(const std::string& path, std::string_view role, uint64_t most,
                                 std::string_view limit_of) {
  const auto check_size = [&](uint64_t size) {
    if (size > most) {
      throw ConfigError(fmt::format("the {} '{}' is larger than {}, which is the most that {}", role, path,
                                    format_size(most), limit_of));
    }
  };
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd) throw_errno(fmt::format("open the {} '{}'", role, path));
  constexpr size_t kPiece = size_t{64} << 10;
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) throw_errno(fmt::format("look at the {} '{}'", role, path));
  const auto expected = static_cast<uint64_t>(S_ISREG(status.st_mode) ? status.st_size : 0);
  check_size(expected);
  std::vector<std::byte> data;
  data.reserve(expected + kPiece);
  for (size_t size = 0;;) {
    data.resize(size + kPiece);
    const ssize_t got = ::read(fd.get(), data.data() + size, kPiece);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno(fmt::format("read the {} '{}'", role, path));
    size += static_cast<size_t>(got);
    check_size(size);
    if (got == 0) {
      data.resize(size);
      data.shrink_to_fit();
      return data;
    }
  }
}

}  // namespace minivmm
