// Two queues, each with an engine and a thread of its own and many requests in flight, on the same clusters.
#include <array>
#include <cstring>
#include <thread>

#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

constexpr uint64_t kChunk = 2048;  // bytes; neighbours belong to different queues
constexpr unsigned kQueues = 2;
constexpr unsigned kInFlight = 8;

// One queue: what its chunks hold is its own business, what else is in their clusters is not.
class Queue {
 public:
  Queue(BlockBackend& disk, unsigned number, uint64_t chunks, uint64_t seed)
      : disk_(disk), random_(seed), number_(number), values_(chunks / kQueues), busy_(chunks / kQueues) {}

  void work(unsigned requests) {
    const auto engine = IoEngine::create();
    unsigned begun = 0;
    while (begun < requests || in_flight_ > 0) {
      for (unsigned i = 0; i < kInFlight; ++i)
        if (!slots_[i].used && begun < requests) start(*engine, slots_[i], ++begun);
      engine->flush();
      if (in_flight_ > 0 && engine->poll() == 0) engine->wait();
    }
  }
  uint64_t value(uint64_t chunk) const { return values_[chunk / kQueues]; }
  unsigned failures() const { return failures_; }

 private:
  struct Slot {
    bool used = false;
    std::array<uint64_t, kChunk / 8> data{};
    iovec piece{};
  };

  void start(IoEngine& engine, Slot& slot, uint64_t stamp) {
    uint64_t mine = random_() % values_.size();
    while (busy_[mine]) mine = (mine + 1) % values_.size();
    const uint64_t offset = (mine * kQueues + number_) * kChunk;
    BlockRequest request{.op = BlockOp::write, .offset = offset, .length = kChunk};
    slot.used = true;
    slot.piece = {slot.data.data(), kChunk};
    request.data = {&slot.piece, 1};
    const uint64_t before = values_[mine];
    switch (random_() % 8) {
      case 0: request.op = BlockOp::flush; break;
      case 1:
        request.op = BlockOp::write_zeroes;
        request.may_unmap = true;
        values_[mine] = 0;
        break;
      case 2:
      case 3:
      case 4: request.op = BlockOp::read; break;
      default: slot.data.fill(stamp << 8 | number_ | 1 << 4); values_[mine] = slot.data[0];
    }
    busy_[mine] = true;
    ++in_flight_;
    const bool reads = request.op == BlockOp::read;
    disk_.submit(engine, request, [this, &slot, mine, before, reads](Result<void> done) {
      if (!done) ++failures_;
      if (reads)
        for (const uint64_t word : slot.data) failures_ += word != before ? 1 : 0;
      slot.used = false;
      busy_[mine] = false;
      --in_flight_;
    });
  }

  BlockBackend& disk_;
  std::mt19937_64 random_;
  unsigned number_;
  std::vector<uint64_t> values_;
  std::vector<bool> busy_;
  std::array<Slot, kInFlight> slots_{};
  unsigned in_flight_ = 0;
  unsigned failures_ = 0;
};

struct Shape {
  const char* name;
  const char* options;
  uint64_t cache = 0;
};

class ConcurrentRequests : public ImageTest, public testing::WithParamInterface<Shape> {};

TEST_P(ConcurrentRequests, DoNotDisturbEachOther) {
  constexpr uint64_t kSize = 1 << 20;
  create("disk.qcow2", kSize, GetParam().options);
  for (int round = 0; round < 2; ++round) {
    ASSERT_EQ(shell(fmt::format("qemu-io -c 'write -z 0 {}' disk.qcow2", kSize)), 0);
    Image::Options options;
    options.cache_bytes = GetParam().cache;
    auto image = open("disk.qcow2", std::move(options));
    ASSERT_NE(image, nullptr) << why_;
    std::vector<std::unique_ptr<Queue>> queues;
    for (unsigned i = 0; i < kQueues; ++i)
      queues.push_back(
          std::make_unique<Queue>(*image, i, kSize / kChunk, static_cast<unsigned>(100 * round) + i));
    {
      std::vector<std::jthread> threads;
      threads.reserve(kQueues);
      for (const auto& queue : queues) threads.emplace_back([&queue] { queue->work(600); });
    }
    for (const auto& queue : queues) EXPECT_EQ(queue->failures(), 0U);
    ASSERT_TRUE(close(*image));
    image.reset();
    ASSERT_EQ(check("disk.qcow2"), 0);
    const Bytes all = as_qemu_reads("disk.qcow2");
    for (uint64_t at = 0; at < kSize; at += 8) {
      uint64_t word = 0;
      std::memcpy(&word, all.data() + at, 8);
      ASSERT_EQ(word, queues[at / kChunk % kQueues]->value(at / kChunk)) << "at " << at;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ConcurrentRequests,
                         testing::Values(Shape{"Default", ""}, Shape{"FourKiB", "cluster_size=4096"},
                                         Shape{"LittleCache", "cluster_size=512", 2048},
                                         Shape{"Extended", "extended_l2=on"},
                                         Shape{"Lazy", "cluster_size=4096,lazy_refcounts=on"}),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace minivmm::qcow2::test
