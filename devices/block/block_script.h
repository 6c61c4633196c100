// Writes to one file whose order matters, known before the first of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace minivmm {

struct BlockScript {
  struct Write {
    uint64_t offset = 0;  // in bytes, as all here
    std::vector<std::byte> bytes;
  };
  // All of it is in the file, and on stable storage if `sync`, before the next phase begins.
  struct Phase {
    std::vector<Write> writes;
    bool sync = false;
  };
  std::vector<Phase> phases;
  // Phases that are cut by a kill would leave waste: see BlockFile::run_script().
  bool whole = true;

  // How far it has come: phases whose writes were all made; phases that have ended (which includes the sync).
  size_t written = 0;
  size_t ended = 0;
};

}  // namespace minivmm
