// What a writer did to a disk, kept where its death cannot take it: a shared mapping of a file. One process
// writes it; another reads it once that is dead.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "vmm/core/fd.h"

namespace minivmm::crash {

inline constexpr uint64_t kSector = 512;
inline constexpr uint32_t kBase = 1;  // the operation that "wrote" the base image: 0 is never-written
inline constexpr uint32_t kMaxOperations = 1 << 18;
inline constexpr uint64_t kMaxSectors = 1 << 18;  // 128 MiB

enum class Kind : uint32_t { none, write, zero, discard };

struct Operation {
  uint64_t first;  // sector
  uint64_t count;
  Kind kind;
  bool covers(uint64_t sector) const { return sector >= first && sector - first < count; }
};

struct Shared {
  std::atomic<uint32_t> operations;  // how many were begun; entry 0 and kBase are not real ones
  std::atomic<uint64_t> base_sectors;
  std::atomic<uint64_t> capacity_durable;  // sectors, at least so many
  std::atomic<uint64_t> capacity_asked;    // and at most
  std::array<Operation, kMaxOperations> operation;
  // The last operation on each sector that had completed when an acknowledged flush began. Discards do not
  // count.
  std::array<std::atomic<uint32_t>, kMaxSectors> durable;
};

class Journal {
 public:
  static Journal create(const std::string& path);  // throws HostError, as does open()
  static Journal open(const std::string& path);
  Shared& operator*() const { return *reinterpret_cast<Shared*>(mapping_.data()); }
  Shared* operator->() const { return &**this; }

 private:
  explicit Journal(Mapping mapping) : mapping_(std::move(mapping)) {}
  Mapping mapping_;
};

// A sector's contents as `operation` writes it: no two operations or sectors have the same.
void stamp(std::span<std::byte> sector_bytes, uint64_t sector, uint32_t operation);
// Which operation wrote it: 0 for zeroes, ~0 for what is neither.
uint32_t read_stamp(std::span<const std::byte> sector_bytes, uint64_t sector);

}  // namespace minivmm::crash
