// A program that embeds the library as its users do: through the installed headers alone.
#include <cstdio>
#include <string>

#include "vmm/core/error.h"
#include "vmm/machine/machine.h"

int main() {
  minivmm::Log log;
  minivmm::MachineConfig config;
  config.kernel = "/nonexistent/kernel";
  config.serial = "null";
  try {
    minivmm::Machine::create(config, log);
  } catch (const minivmm::HostError& error) {
    std::printf("as expected: %s\n", error.what());
    return 0;
  }
  return 1;
}
