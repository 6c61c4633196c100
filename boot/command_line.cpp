#include "boot/command_line.h"

namespace minivmm {

namespace {

bool is_blank(char c) {
  return static_cast<unsigned char>(c) <= ' ';
}

// Calls `visit` for each word until it returns true; false if it never did.
template <class F>
bool any_word(std::string_view cmdline, F&& visit) {
  size_t at = 0;
  while (at < cmdline.size()) {
    const size_t begin = at;
    while (at < cmdline.size() && !is_blank(cmdline[at])) ++at;
    if (at > begin && visit(cmdline.substr(begin, at - begin))) return true;
    ++at;
  }
  return false;
}

}  // namespace

bool has_flag(std::string_view cmdline, std::string_view flag) {
  return any_word(cmdline, [flag](std::string_view word) { return word == flag; });
}

bool has_option(std::string_view cmdline, std::string_view name) {
  return any_word(cmdline, [name](std::string_view word) {
    return word.size() > name.size() && word.starts_with(name) && word[name.size()] == '=';
  });
}

std::string default_command_line(const RootDevice& root, std::string_view console) {
  std::string line = "console=" + std::string(console);
  if (!root.root.empty()) {
    line += " root=" + root.root;
    line += root.read_only ? " ro" : " rw";
  }
  return line + " panic=-1";  // a panicked guest resets at once rather than hanging for ever
}

}  // namespace minivmm
