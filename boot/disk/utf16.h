// UTF-16 names on disks, as UTF-8.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace minivmm {

// Up to the first 0. A surrogate without its other half becomes U+FFFD.
std::string utf8_of(std::span<const uint16_t> units);

}  // namespace minivmm
