// Writes and syncs that are made to the last one, even where this process is killed (SIGKILL) meanwhile.
//
// A short-lived process makes them that shares our memory and our descriptors (clone(2) with CLONE_VM and
// CLONE_FILES): a signal to us does not reach it, and the kernel keeps memory, descriptors and file locks
// until it has ended too. docs/qcow2.md, "A killed process", says what this does not outlive.
#pragma once

#include <cstddef>
#include <cstdint>

namespace minivmm {

struct FileCall {
  enum class Kind : uint8_t { write, datasync };
  Kind kind = Kind::write;
  uint64_t offset = 0;
  const std::byte* bytes = nullptr;
  uint64_t length = 0;
};

// The helper shares our memory, but none of our run time: plain numbers and pointers.
struct FileCalls {
  int fd = -1;
  const FileCall* calls = nullptr;  // in this order
  size_t count = 0;
  // Past the page cache: transfers of whole blocks, by way of a buffer of whole blocks that is aligned to
  // one; a block that is written in part is read first.
  uint64_t block = 1;
  std::byte* buffer = nullptr;
  uint64_t buffer_bytes = 0;

  // What the page cache has for the file goes to the disk first, while a kill still changes nothing: so that
  // the helper's own syncs are short.
  bool settle = false;

  size_t done = 0;       // calls that succeeded
  int error = 0;         // errno of the one after; ECANCELED: the helper was killed
  bool in_sync = false;  // that one was a sync, or brought pages to the disk
};

// Blocks until all is done or one has failed. Where the host refuses the helper, this thread makes the calls.
void run_unkillable(FileCalls& work);

// Whether the host allows the helper. Some 50 µs.
bool can_be_unkillable();

}  // namespace minivmm
