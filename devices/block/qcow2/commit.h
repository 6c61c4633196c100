// What one commit writes, collected at one instant. docs/qcow2.md, "Commit".
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "devices/block/block_script.h"
#include "devices/block/qcow2/runtime.h"

namespace minivmm::qcow2 {

struct CommitPlan {
  // The document's phases 1 to 4; each header apart, so that it is known whether it was written.
  enum Phase : uint8_t { counts, blocks, table_header, references, header_sector, lowered, phases };
  BlockScript script{.phases = std::vector<BlockScript::Phase>(phases)};
  std::vector<BlockScript::Write>& writes(Phase phase) { return script.phases[phase].writes; }
  bool began(Phase phase) const { return script.ended >= phase; }
  bool ended(Phase phase) const { return script.ended > phase; }

  Header named;   // as phase 2 leaves it, if it writes one
  Header header;  // as it is to be in the end

  struct Cleaned {
    TableCache* cache;
    TablePtr table;
    uint64_t from;
    uint64_t end;
  };
  // To be marked as dirty again where the commit fails. The refcount blocks come first, as in writes(counts).
  std::vector<Cleaned> tables;
  Refcounts::Changes refcounts;
  uint64_t l1_from = 0;
  uint64_t l1_end = 0;
  bool l1_moved = false;

  // The refcount blocks, by number, that phase 4 can lower counts in; null: there is none, as there should
  // be.
  std::map<uint64_t, TablePtr> held;
  bool too_many = false;  // more of them were needed than may be held
  std::deque<Freed> freed;
};

}  // namespace minivmm::qcow2
