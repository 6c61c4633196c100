// What a file is that is no kernel: the second half of an error message.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace minivmm {

// "a qcow2 disk image; pass it with --disk". Always says something.
std::string_view describe_file(std::span<const std::byte> file);

}  // namespace minivmm
