// Work on metadata is attempted under the mutex with what is in memory. Where a table is missing, the attempt
// has changed nothing and names it; the table is loaded and the attempt made again.
#pragma once

#include <cstdint>
#include <expected>

#include "devices/block/qcow2/table_cache.h"
#include "vmm/core/error.h"

namespace minivmm::qcow2 {

struct Obstacle {
  TableCache* cache = nullptr;  // null: the error is final
  uint64_t table = 0;
  Error error{Errc::io, ""};
};

template <class T>
using Attempt = std::expected<T, Obstacle>;

inline std::unexpected<Obstacle> missing(TableCache& cache, uint64_t table) {
  return std::unexpected(Obstacle{&cache, table, {Errc::io, ""}});
}
inline std::unexpected<Obstacle> give_up(Errc code, const char* what) {
  return std::unexpected(Obstacle{nullptr, 0, {code, what}});
}
inline std::unexpected<Obstacle> give_up(const Error& error) {
  return std::unexpected(Obstacle{nullptr, 0, error});
}

}  // namespace minivmm::qcow2
