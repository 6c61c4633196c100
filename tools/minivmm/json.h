// JSON output of the command line.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/fwd.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

namespace minivmm {

namespace json = boost::json;

void print_json(const json::value&);  // indented, to stdout

}  // namespace minivmm
