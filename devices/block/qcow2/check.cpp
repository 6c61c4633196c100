#include "devices/block/qcow2/check.h"

#include <algorithm>

#include "devices/block/qcow2/check_walk.h"
#include "devices/block/qcow2/metadata_io.h"

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kMarks = kIncompatDirty | kIncompatCorrupt;

Task<Result<void>> walk_all(CheckWalk& walk) {
  walk.result.dirty = (walk.header.incompatible & kIncompatDirty) != 0;
  walk.result.marked_corrupt = (walk.header.incompatible & kIncompatCorrupt) != 0;
  Result<void> good = co_await walk_references(walk, CountRefcounts::yes);
  if (good) good = co_await compare_counts(walk);
  if (good) good = co_await check_copied_flags(walk);
  co_return good;
}

// Makes the counts what the references are.
Task<Result<void>> repair_counts(CheckWalk& walk) {
  if (!walk.counts_low) {
    if (!walk.counts_differ) co_return Result<void>();
    co_return co_await lower_counts(walk);
  }
  CheckWalk without(walk.engine, walk.file, walk.header);
  const Result<void> good = co_await walk_references(without, CountRefcounts::no);
  if (!good) co_return good;
  co_return co_await write_new_refcounts(without, walk);
}

Task<Result<void>> clear_marks(IoEngine& engine, BlockFile& file, Header& header, uint64_t marks) {
  if ((header.incompatible & marks) == 0) co_return Result<void>();
  header.incompatible &= ~marks;
  std::array<std::byte, 8> field{};
  store_be64(field.data(), header.incompatible);
  Result<void> good = co_await write_bytes(engine, file, kFieldIncompatible, field);
  if (good) good = co_await file.sync(engine);
  co_return good;
}

Task<Result<uint64_t>> repair_all(CheckWalk& walk) {
  Result<void> good = co_await repair_counts(walk);
  if (!good) co_return std::unexpected(good.error());
  if (walk.mendable == 0 && walk.wrong_copied == 0 && !walk.counts_differ && !walk.counts_low)
    co_return uint64_t{0};
  co_return co_await repair_entries(walk);
}

}  // namespace

Task<Result<CheckResult>> check_image(IoEngine& engine, BlockFile& file, const CheckOptions& options,
                                      std::string& why) {
  // The error's own words, unless the header's had more.
  const auto stop = [&](const Error& error) {
    if (why.empty()) why = error.what;
    return std::unexpected(error);
  };
  auto header = co_await read_header(engine, file, why, ForRepair::yes);
  if (!header) co_return stop(header.error());
  CheckWalk before(engine, file, std::move(*header));
  before.max_messages = options.max_messages;
  before.progress = options.progress;
  Result<void> good = co_await walk_all(before);
  if (!good) co_return stop(good.error());

  CheckResult& found = before.result;
  const bool marked = found.dirty || found.marked_corrupt;
  const bool nothing_to_do = found.corruptions == 0 && found.leaks == 0 && !marked;
  // With more wrong than counts that are too high, what leaks may be what was lost.
  if (options.repair == Repair::none || nothing_to_do ||
      (options.repair == Repair::leaks && found.corruptions != 0))
    co_return std::move(found);

  uint64_t lost = 0;
  if (options.repair == Repair::leaks) {
    good = co_await repair_counts(before);
    if (!good) co_return stop(good.error());
  } else {
    const Result<uint64_t> repaired = co_await repair_all(before);
    if (!repaired) co_return stop(repaired.error());
    lost = *repaired;
  }

  header = co_await read_header(engine, file, why, ForRepair::yes);
  if (!header) co_return stop(header.error());
  CheckWalk after(engine, file, std::move(*header));
  good = co_await walk_all(after);
  if (!good) co_return stop(good.error());
  CheckResult& remains = after.result;
  if (remains.corruptions == 0) {
    good = co_await clear_marks(engine, file, after.header, kMarks);
    if (!good) co_return stop(good.error());
    remains.dirty = remains.marked_corrupt = false;
  }
  remains.corruptions_fixed = found.corruptions - std::min(found.corruptions, remains.corruptions);
  remains.leaks_fixed = found.leaks - std::min(found.leaks, remains.leaks);
  remains.lost = lost;
  remains.messages = std::move(found.messages);
  remains.more_messages = found.more_messages;
  co_return std::move(remains);
}

Task<Result<void>> rebuild_refcounts(IoEngine& engine, BlockFile& file, Header& header) {
  CheckWalk walk(engine, file, header);
  Result<void> good = co_await walk_all(walk);
  if (!good) co_return good;
  if (walk.bad_entries != 0)
    co_return fail(Errc::corrupt, "the image is dirty, and more is wrong than refcounts");
  const auto repaired = co_await repair_all(walk);
  if (!repaired) co_return std::unexpected(repaired.error());
  std::string why;
  auto now = co_await read_header(engine, file, why);
  if (!now) co_return std::unexpected(now.error());
  header = std::move(*now);
  co_return co_await clear_marks(engine, file, header, kIncompatDirty);
}

}  // namespace minivmm::qcow2
