// `--dry-run`: the composed machine, started nowhere.
#pragma once

#include "vmm/machine/config.h"

namespace minivmm {

int dry_run(const MachineConfig&, bool as_json);  // the exit status

}  // namespace minivmm
