// A device's factory, for tests of the values that its option takes.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <span>

#include "tests/conformance/fake_host.h"
#include "tests/temp_folder.h"
#include "virtio/registry.h"
#include "vmm/core/log.h"

namespace minivmm::test {

class DeviceSpec : public testing::Test {
 protected:
  CreateContext context() { return {.index = 0, .cpus = 1, .memory = 1 << 30, .log = log_, .time = time_}; }
  // The first bytes of the device configuration space, as a number.
  static uint64_t config(const VirtioDevice& device, size_t bytes) {
    std::array<std::byte, 8> out{};
    device.read_config(0, std::span(out).first(bytes));
    return load_le(out);
  }
  TempFolder folder_;
  Log log_;
  ManualTime time_;
};

}  // namespace minivmm::test
