// MachineConfig::serial turned into a back end.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "devices/serial_backend.h"
#include "vmm/machine/machine.h"

namespace minivmm {

// Throws ConfigError if more than one of the serial port and the consoles is on standard input.
void check_stdio(const MachineConfig&);

// `option` is for messages: "--serial". Throws ConfigError for what it does not know, HostError for what the
// host refuses.
std::unique_ptr<SerialBackend> make_serial(const std::string& option, const std::string& spec,
                                           EventLoop& loop, Log& log, const MachineHooks& hooks);

}  // namespace minivmm
