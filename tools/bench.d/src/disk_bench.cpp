// The block layer alone, as qemu-img bench measures QEMU's: COUNT requests of SIZE bytes, DEPTH of them in
// flight, each STEP bytes after the last one, round and round. Prints the time in ns from the first to the
// last.
//   disk_bench IMAGE FORMAT read|write COUNT DEPTH SIZE STEP
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "devices/block/open_disk.h"

using namespace minivmm;

namespace {

struct Run {
  BlockBackend& disk;
  IoEngine& engine;
  BlockOp op;
  uint64_t left;
  uint64_t size;
  uint64_t step;
  uint64_t offset = 0;
  unsigned running = 0;

  Task<Result<void>> one_after_another(std::byte* buffer) {
    const iovec piece{buffer, size};
    while (left > 0) {
      --left;
      const uint64_t at = offset;
      offset = (offset + step) % disk.capacity();
      auto done = co_await disk.run(engine, {.op = op, .offset = at, .length = size, .data = {&piece, 1}});
      if (!done) co_return done;
    }
    co_return Result<void>{};
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  auto engine = IoEngine::create();
  OpenedDisk opened = open_image(*engine, argv[1], {.format = argv[2], .read_only = argv[3][0] == 'r'});
  Run run{.disk = *opened.backend,
          .engine = *engine,
          .op = argv[3][0] == 'r' ? BlockOp::read : BlockOp::write,
          .left = std::strtoull(argv[4], nullptr, 0),
          .size = std::strtoull(argv[6], nullptr, 0),
          .step = std::strtoull(argv[7], nullptr, 0)};
  const auto depth = static_cast<unsigned>(std::strtoul(argv[5], nullptr, 0));
  std::unique_ptr<std::byte, void (*)(void*)> buffers(
      static_cast<std::byte*>(std::aligned_alloc(4096, depth * run.size)), std::free);
  std::fill_n(buffers.get(), depth * run.size, std::byte{0x5a});
  const auto began = std::chrono::steady_clock::now();
  for (unsigned i = 0; i < depth; ++i) {
    ++run.running;
    spawn(run.one_after_another(buffers.get() + i * run.size), [&run](Result<void> result) {
      --run.running;
      if (!result) {
        fmt::print(stderr, "{}\n", result.error().what);
        std::_Exit(1);
      }
    });
  }
  while (run.running > 0) {
    if (engine->poll() == 0 && run.running > 0) engine->wait();
  }
  const auto took = std::chrono::steady_clock::now() - began;
  fmt::print("{}\n", std::chrono::nanoseconds(took).count());
  return opened.close(*engine) ? 0 : 1;
}
