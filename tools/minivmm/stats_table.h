// `--stats`: the exits of a run, by reason and by device.
#pragma once

#include "vmm/machine/machine.h"

namespace minivmm {

void print_stats(const MachineStats&);  // to stderr: the guest's console is on stdout

}  // namespace minivmm
