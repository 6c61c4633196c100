// The settings in a GRUB configuration file: its variables, nothing else of it. No command in it is run.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace minivmm {

struct GrubSettings {
  std::map<std::string, std::string, std::less<>> variables;
  bool skipped = false;  // something is set inside an "if", a loop or a function: that was left alone

  std::string_view get(std::string_view name) const;  // "" where it is not set, as in GRUB
};

// Lines of `set name=value`, with GRUB's quoting ("…" expands $name and ${name}, '…' does not, \ escapes),
// comments, and `;` between statements. `variables` holds what is set before the file is read.
void read_grub_settings(std::string_view text, GrubSettings&);

}  // namespace minivmm
