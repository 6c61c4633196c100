// The kernel command line: the one made up when none is given, and reading of its options.
#pragma once

#include <string>
#include <string_view>

#include "boot/root_device.h"

namespace minivmm {

// A command line that boots a stock distribution's kernel here: console on `console`, the root if one was
// found, a reboot after a panic.
std::string default_command_line(const RootDevice& root, std::string_view console = "ttyS0");

// As the kernel's decompressor sees options (arch/x86/lib/cmdline.c): words between blanks; it knows neither
// quotes nor "--", so neither do we.
bool has_flag(std::string_view cmdline, std::string_view flag);    // "nokaslr"
bool has_option(std::string_view cmdline, std::string_view name);  // "mem" for mem=…

}  // namespace minivmm
