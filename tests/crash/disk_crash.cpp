// Writes to a disk image at random until it is killed, and verifies afterwards that nothing acknowledged was
// lost.
//   disk_crash base FILE SECTORS              a raw image for overlays to stand on
//   disk_crash write IMAGE JOURNAL SEED BASE-SECTORS [no-resize]
//   disk_crash verify IMAGE JOURNAL           status 1 and a line for what is wrong
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "devices/block/open_disk.h"
#include "tests/crash/journal.h"

using namespace minivmm;         // NOLINT(google-build-using-namespace)
using namespace minivmm::crash;  // NOLINT(google-build-using-namespace)

namespace {

constexpr int kThreads = 2;
constexpr int kDepth = 8;  // requests in flight of each thread

// What is being done, so that no two requests in flight touch one sector: which of them came last would be
// open.
class Disk {
 public:
  Disk(BlockBackend& backend, Journal& journal)
      : backend_(backend), journal_(journal), completed_(kMaxSectors) {
    // A second life of the same image goes on from what is known.
    for (uint64_t i = 0; i < kMaxSectors; ++i) completed_[i] = journal->durable[i];
  }

  // A range for an operation of at most `most` sectors; its number in the journal, or none if the journal is
  // full.
  std::optional<uint32_t> begin(std::mt19937_64& random, Kind kind, uint64_t most) {
    const std::scoped_lock lock(mutex_);
    const uint64_t sectors = backend_.capacity() / kSector;
    const uint32_t number = journal_->operations;
    if (number + 1 >= kMaxOperations) return std::nullopt;
    for (;;) {
      const uint64_t count = 1 + random() % std::min(most, sectors);
      uint64_t first = random() % (sectors - count + 1);
      if (random() % 4 == 0) first = first / 128 * 128;  // whole clusters now and then
      if (busy(first, count)) continue;
      busy_.emplace(first, count);
      journal_->operation[number] = {first, count, kind};
      journal_->operations.store(number + 1, std::memory_order_release);
      return number;
    }
  }

  void end(uint32_t number, bool done) {
    const std::scoped_lock lock(mutex_);
    const Operation& operation = journal_->operation[number];
    busy_.erase(operation.first);
    if (!done || operation.kind == Kind::discard) return;
    for (uint64_t i = 0; i < operation.count; ++i) completed_[operation.first + i] = number;
  }

  std::vector<uint32_t> completed() {
    const std::scoped_lock lock(mutex_);
    return completed_;
  }
  void acknowledge(const std::vector<uint32_t>& flushed) {
    const std::scoped_lock lock(mutex_);
    for (uint64_t i = 0; i < kMaxSectors; ++i) {
      if (flushed[i] > journal_->durable[i]) journal_->durable[i] = flushed[i];
    }
  }

 private:
  bool busy(uint64_t first, uint64_t count) const {
    auto next = busy_.lower_bound(first);
    if (next != busy_.end() && next->first < first + count) return true;
    return next != busy_.begin() && std::prev(next)->first + std::prev(next)->second > first;
  }

  BlockBackend& backend_;
  Journal& journal_;
  std::mutex mutex_;
  std::map<uint64_t, uint64_t> busy_;  // first sector, count
  std::vector<uint32_t> completed_;
};

struct Writer {
  BlockBackend& backend;
  Journal& journal;
  Disk& disk;
  IoEngine& engine;
  std::mt19937_64 random;
  bool may_resize;

  Task<Result<void>> transfer(Kind kind, uint64_t most) {
    const auto number = disk.begin(random, kind, most);
    if (!number) co_return fail(Errc::too_large, "the journal is full");
    const Operation operation = journal->operation[*number];
    std::vector<std::byte> bytes;
    iovec piece{};
    BlockRequest request{.offset = operation.first * kSector, .length = operation.count * kSector};
    request.may_unmap = random() % 2 == 0;
    if (kind == Kind::write) {
      bytes.resize(request.length);
      for (uint64_t i = 0; i < operation.count; ++i) {
        stamp(std::span(bytes).subspan(i * kSector, kSector), operation.first + i, *number);
      }
      piece = {bytes.data(), bytes.size()};
      request.data = {&piece, 1};
    }
    request.op = kind == Kind::write  ? BlockOp::write
                 : kind == Kind::zero ? BlockOp::write_zeroes
                                      : BlockOp::discard;
    const auto result = co_await backend.run(engine, request);
    disk.end(*number, result.has_value());
    co_return result;
  }

  Task<Result<void>> flush() {
    const auto before = disk.completed();
    auto result = co_await backend.run(engine, {.op = BlockOp::flush});
    if (result) disk.acknowledge(before);
    co_return result;
  }

  Task<Result<void>> grow() {
    const uint64_t wanted = std::min(kMaxSectors, backend.capacity() / kSector + 1 + random() % 4096);
    uint64_t asked = journal->capacity_asked;
    while (asked < wanted && !journal->capacity_asked.compare_exchange_weak(asked, wanted)) {
    }
    auto result = co_await backend.resize(engine, wanted * kSector);
    if (result) journal->capacity_durable = wanted;
    co_return result;
  }

  Task<Result<void>> step() {
    const uint64_t dice = random() % 1000;
    if (dice < 550) return transfer(Kind::write, 32);
    if (dice < 750) return transfer(Kind::write, 1024);
    if (dice < 830) return transfer(Kind::zero, 512);
    if (dice < 920) return transfer(Kind::discard, 512);
    if (dice < 999 || !may_resize) return flush();
    return grow();
  }

  Task<Result<void>> forever() {
    for (;;) {
      if (auto done = co_await step(); !done) co_return done;
    }
  }
};

// Until the process is killed; the journal's end ends it too.
int write(const std::string& image, const std::string& log, uint64_t seed, uint64_t base, bool may_resize) {
  Journal journal = std::ifstream(log).good() ? Journal::open(log) : Journal::create(log);
  auto opener = IoEngine::create();
  OpenedDisk opened = open_image(*opener, image, {});
  journal->base_sectors = base;
  if (journal->capacity_durable == 0) journal->capacity_durable = opened.backend->capacity() / kSector;
  journal->capacity_asked = std::max<uint64_t>(journal->capacity_asked, opened.backend->capacity() / kSector);
  Disk disk(*opened.backend, journal);
  fmt::print("writing\n");
  std::fflush(stdout);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      auto engine = IoEngine::create();
      std::vector<std::unique_ptr<Writer>> writers;
      int running = kDepth;
      for (int i = 0; i < kDepth; ++i) {
        writers.push_back(
            std::make_unique<Writer>(Writer{*opened.backend, journal, disk, *engine,
                                            std::mt19937_64(seed * 1000 + static_cast<uint64_t>(t * 100 + i)),
                                            may_resize && t == 0 && i == 0}));
        spawn(writers.back()->forever(), [&running](Result<void> result) {
          --running;
          if (result.error().code != Errc::too_large) {
            fmt::print(stderr, "a request failed: {}\n", result.error().what);
            std::_Exit(2);
          }
        });
      }
      while (running > 0) {
        if (engine->poll() == 0 && running > 0) engine->wait();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  if (auto closed = opened.close(*opener); !closed) {
    fmt::print(stderr, "the close failed: {}\n", closed.error().what);
    return 2;
  }
  return 0;
}

// What a sector may hold, by the journal: the last durable write, or anything begun since.
class Verifier {
 public:
  explicit Verifier(const Journal& journal) : journal_(journal), count_(journal->operations) {
    // By the megabyte, so that a sector need not look through all operations.
    for (uint32_t n = kBase + 1; n < count_; ++n) {
      const Operation& operation = journal->operation[n];
      for (uint64_t area = operation.first >> 11; area <= (operation.first + operation.count - 1) >> 11;
           ++area) {
        by_area_[area].push_back(n);
      }
    }
  }

  std::optional<std::string> check(uint64_t sector, std::span<const std::byte> bytes) const {
    const uint32_t found = read_stamp(bytes, sector);
    const uint32_t durable = journal_->durable[sector];
    const uint32_t initial = sector < journal_->base_sectors ? kBase : 0;
    if (found == ~uint32_t{0}) return fmt::format("sector {}: bytes that nobody wrote there", sector);
    if (found > kBase) {
      const Operation& operation = journal_->operation[found];
      if (found >= count_ || operation.kind != Kind::write || !operation.covers(sector)) {
        return fmt::format("sector {}: the data of operation {}, which did not write it", sector, found);
      }
      if (found < durable) return lost(sector, found, durable);
      return std::nullopt;
    }
    if (found == initial && durable == 0) return std::nullopt;
    // Zeroes, or what lies below: by a zeroing or a discard that is not older than what is durable.
    for (const uint32_t n : area(sector)) {
      const Operation& operation = journal_->operation[n];
      if (n < durable || !operation.covers(sector)) continue;
      if (operation.kind == Kind::discard || (operation.kind == Kind::zero && found == 0))
        return std::nullopt;
    }
    return lost(sector, found, durable);
  }

 private:
  static std::string lost(uint64_t sector, uint32_t found, uint32_t durable) {
    return fmt::format("sector {}: operation {} is lost, though flushed; found {}", sector, durable, found);
  }
  std::span<const uint32_t> area(uint64_t sector) const {
    const auto found = by_area_.find(sector >> 11);
    return found == by_area_.end() ? std::span<const uint32_t>() : found->second;
  }

  const Journal& journal_;
  uint32_t count_;
  std::map<uint64_t, std::vector<uint32_t>> by_area_;
};

int verify(const std::string& image, const std::string& log) {
  const Journal journal = Journal::open(log);
  const Verifier verifier(journal);
  auto engine = IoEngine::create();
  OpenedDisk opened = open_image(*engine, image, {.read_only = true});
  const uint64_t sectors = opened.backend->capacity() / kSector;
  if (sectors < journal->capacity_durable || sectors > journal->capacity_asked) {
    fmt::print("the capacity is {} sectors, not {} to {}\n", sectors, journal->capacity_durable.load(),
               journal->capacity_asked.load());
    return 1;
  }
  std::vector<std::byte> bytes(1 << 20);
  for (uint64_t sector = 0; sector < sectors; sector += bytes.size() / kSector) {
    const uint64_t count = std::min<uint64_t>(bytes.size() / kSector, sectors - sector);
    iovec piece{bytes.data(), count * kSector};
    const BlockRequest request{
        .op = BlockOp::read, .offset = sector * kSector, .length = count * kSector, .data = {&piece, 1}};
    if (auto read = engine->run(opened.backend->run(*engine, request)); !read) {
      fmt::print("sector {}: cannot be read: {}\n", sector, read.error().what);
      return 1;
    }
    for (uint64_t i = 0; i < count; ++i) {
      if (auto wrong = verifier.check(sector + i, std::span(bytes).subspan(i * kSector, kSector))) {
        fmt::print("{}\n", *wrong);
        return 1;
      }
    }
  }
  uint32_t durable = 0;
  for (uint64_t i = 0; i < kMaxSectors; ++i) durable += journal->durable[i] != 0;
  fmt::print("{} operations, {} durable sectors, all found\n", journal->operations.load() - kBase - 1,
             durable);
  return 0;
}

int base(const std::string& path, uint64_t sectors) {
  std::ofstream file(path, std::ios::binary);
  std::array<std::byte, kSector> bytes;
  for (uint64_t i = 0; i < sectors; ++i) {
    stamp(bytes, i, kBase);
    file.write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return file.flush() ? 0 : 2;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  try {
    if (words.size() == 3 && words[0] == "base") return base(words[1], std::stoull(words[2]));
    if (words.size() >= 5 && words[0] == "write") {
      return write(words[1], words[2], std::stoull(words[3]), std::stoull(words[4]), words.size() == 5);
    }
    if (words.size() == 3 && words[0] == "verify") return verify(words[1], words[2]);
  } catch (const std::exception& error) {
    fmt::print(stderr, "disk_crash: {}\n", error.what());
    return 2;
  }
  fmt::print(
      stderr,
      "disk_crash: base FILE SECTORS | write IMAGE JOURNAL SEED BASE-SECTORS | verify IMAGE JOURNAL\n");
  return 2;
}
