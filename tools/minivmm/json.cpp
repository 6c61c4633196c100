#include "json.h"

#include <cstdio>
#include <string>

#include <boost/json/src.hpp>  // compiled in here: no shared library to load at every start

namespace minivmm {

namespace {

void indent(std::string& out, int depth) {
  out.append(static_cast<size_t>(depth) * 2, ' ');
}

void print(std::string& out, const json::value& v, int depth) {
  if (v.is_object() && !v.get_object().empty()) {
    out += "{\n";
    bool first = true;
    for (const auto& [key, member] : v.get_object()) {
      if (!std::exchange(first, false)) out += ",\n";
      indent(out, depth + 1);
      out += json::serialize(json::string(key)) + ": ";
      print(out, member, depth + 1);
    }
    out += '\n';
    indent(out, depth);
    out += '}';
  } else if (v.is_array() && !v.get_array().empty()) {
    out += "[\n";
    bool first = true;
    for (const json::value& element : v.get_array()) {
      if (!std::exchange(first, false)) out += ",\n";
      indent(out, depth + 1);
      print(out, element, depth + 1);
    }
    out += '\n';
    indent(out, depth);
    out += ']';
  } else {
    out += json::serialize(v);
  }
}

}  // namespace

void print_json(const json::value& v) {
  std::string out;
  print(out, v, 0);
  out += '\n';
  std::fwrite(out.data(), 1, out.size(), stdout);
}

}  // namespace minivmm
