// The machine's definition block: what the guest finds as devices.
#pragma once

#include "boot/acpi/aml.h"
#include "boot/acpi/tables.h"

namespace minivmm {

aml::Code build_dsdt(const AcpiConfig&);  // the AML only, without the table header

}  // namespace minivmm
