// What `minivmm doctor` finds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace minivmm {

struct Finding {
  enum class Verdict : uint8_t { good, limited, missing };

  std::string_view subject;
  Verdict verdict;
  std::string detail;
  std::string mend;  // empty: nothing to mend
  bool needed_to_run = false;
};

// From an error's line, "what is so; what mends it".
Finding limited_finding(std::string_view subject, std::string_view error);

// What networks, shared folders and the cloud-init disk need.
void look_at_links(std::vector<Finding>& findings);

}  // namespace minivmm
