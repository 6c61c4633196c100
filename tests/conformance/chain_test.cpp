// Hostile descriptor chains against every device type: facts 1 to 4, 8 and 11.
#include <thread>

#include "tests/conformance/every_device.h"

namespace minivmm::test {
namespace {

using virtio::kDescIndirect;
using virtio::kDescNext;
using virtio::kDescWrite;

class HostileChain : public EveryDevice {
 protected:
  // The head comes back used with length 0, and the queue goes on.
  static void expect_returned_empty(FakeGuest& guest, uint16_t head) {
    const auto used = guest.submit(head);
    ASSERT_TRUE(used) << "the chain never came back";
    EXPECT_EQ(used->id, head);
    EXPECT_EQ(used->len, 0U);
    EXPECT_EQ(guest.transport->status(), FakeGuest::kRunning);
    EXPECT_TRUE(guest.alive());
  }
  // Descriptor 0 names an indirect table of `len` bytes at `table`.
  static void indirect(FakeGuest& guest, Gpa table, uint32_t len, uint16_t more_flags = 0) {
    guest.ring().descriptor(0, table, len, static_cast<uint16_t>(kDescIndirect | more_flags), 1);
  }
};

TEST_P(HostileChain, ALoopComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    guest->ring().descriptor(0, kBuffers, 16, kDescNext, 1);
    guest->ring().descriptor(1, kBuffers, 16, kDescNext, 0);
    expect_returned_empty(*guest, 0);
  });
}

TEST_P(HostileChain, ADescriptorThatNamesItselfComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    guest->ring().descriptor(7, kBuffers, 16, kDescNext, 7);
    expect_returned_empty(*guest, 7);
  });
}

TEST_P(HostileChain, ALoopInAnIndirectTableComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    indirect(*guest, kBuffers, 32);
    guest->ring().descriptor_at(kBuffers, kBuffers + 0x100, 16, kDescNext, 1);
    guest->ring().descriptor_at(kBuffers + 16, kBuffers + 0x100, 16, kDescNext, 0);
    expect_returned_empty(*guest, 0);
  });
}

TEST_P(HostileChain, ANextIndexPastTheTableComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    guest->ring().descriptor(0, kBuffers, 16, kDescNext, guest->ring().size());
    expect_returned_empty(*guest, 0);
  });
}

TEST_P(HostileChain, ANextIndexPastAnIndirectTableComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    indirect(*guest, kBuffers, 16);
    guest->ring().descriptor_at(kBuffers, kBuffers + 0x100, 16, kDescNext, 1);
    expect_returned_empty(*guest, 0);
  });
}

TEST_P(HostileChain, AnIndirectDescriptorInAnIndirectTableComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    indirect(*guest, kBuffers, 32);
    guest->ring().descriptor_at(kBuffers, kBuffers, 32, kDescIndirect);
    expect_returned_empty(*guest, 0);
  });
}

TEST_P(HostileChain, AnIndirectTableOfBadLengthComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    guest->ring().descriptor_at(kBuffers, kBuffers + 0x100, 16);
    for (const uint32_t len : {0U, 1U, 15U, 17U, 0x8000'0000U, 0xffff'fff0U, 0xffff'ffffU}) {
      SCOPED_TRACE(len);
      indirect(*guest, kBuffers, len);
      expect_returned_empty(*guest, 0);
    }
  });
}

TEST_P(HostileChain, AnIndirectTableOutsideRamComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    for (const Gpa table : {Gpa{kLowSize}, Gpa{kLowSize - 16}, guest->transport->window_base(),
                            Gpa{~uint64_t{15}}, kHighBase + (kHighSize - 16)}) {
      SCOPED_TRACE(value(table));
      indirect(*guest, table, 32);
      expect_returned_empty(*guest, 0);
    }
  });
}

TEST_P(HostileChain, AnIndirectDescriptorThatGoesOnComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    indirect(*guest, kBuffers, 16, kDescNext);
    guest->ring().descriptor_at(kBuffers, kBuffers + 0x100, 16);
    expect_returned_empty(*guest, 0);
  });
}

TEST_P(HostileChain, AnIndirectDescriptorWithoutTheFeatureComesBackEmpty) {
  on_each_queue(
      [&](FakeGuest* guest) {
        indirect(*guest, kBuffers, 16);
        guest->ring().descriptor_at(kBuffers, kBuffers + 0x100, 16);
        expect_returned_empty(*guest, 0);
      },
      virtio::kFeatureIndirectDesc);
}

TEST_P(HostileChain, AnIndirectChainWorksAsADirectOneDoes) {
  on_each_queue([&](FakeGuest* guest) {
    ASSERT_TRUE(guest->memory.fill(kBuffers, 0x1000, std::byte{0}));
    guest->probe_chain(4);
    const auto direct = guest->submit(4);
    ASSERT_TRUE(direct);
    indirect(*guest, kBuffers + 0x800, 32, kDescWrite);  // the write flag means nothing there (2.7.5.3.2)
    guest->ring().descriptor_at(kBuffers + 0x800, kBuffers, 16, kDescNext, 1);
    guest->ring().descriptor_at(kBuffers + 0x810, kBuffers + 0x1000, 513, kDescWrite);
    const auto used = guest->submit(0);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->len, direct->len);
  });
}

TEST_P(HostileChain, ABufferThatWrapsTheAddressSpaceComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    for (const uint64_t address : {~uint64_t{0}, ~uint64_t{0} - 4094, ~uint64_t{0} - 0xffff'fffe}) {
      SCOPED_TRACE(address);
      guest->ring().descriptor(0, Gpa{address}, 4096, kDescWrite);
      expect_returned_empty(*guest, 0);
    }
    guest->ring().descriptor(0, Gpa{1}, 0xffff'ffff, kDescWrite);
    expect_returned_empty(*guest, 0);
  });
}

TEST_P(HostileChain, ABufferThatLeavesRamComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    struct Case {
      const char* what;
      Gpa address;
      uint32_t len;
    };
    const Case cases[] = {
        {"into the hole", Gpa{kLowSize - 256}, 512},
        {"across the hole", Gpa{kLowSize - 256}, 0x100000 + 512},
        {"in the hole", Gpa{kLowSize + 256}, 512},
        {"all of the high part and more", kHighBase, 0x200000},
        {"past the end of RAM", kHighBase + (kHighSize - 256), 512},
        {"into the device's own registers", guest->transport->window_base(), 64},
    };
    for (const Case& c : cases) {
      SCOPED_TRACE(c.what);
      for (const uint16_t flags : {uint16_t{0}, kDescWrite}) {
        guest->ring().descriptor(0, c.address, c.len, flags);
        expect_returned_empty(*guest, 0);
      }
    }
  });
}

TEST_P(HostileChain, BuffersInBothPartsOfRamWork) {
  on_each_queue([&](FakeGuest* guest) {
    ASSERT_TRUE(guest->memory.fill(Gpa{kLowSize - 16}, 16, std::byte{0}));
    guest->probe_chain(4);
    const auto elsewhere = guest->submit(4);
    ASSERT_TRUE(elsewhere);
    guest->ring().descriptor(0, Gpa{kLowSize - 16}, 16, kDescNext, 1);
    guest->ring().descriptor(1, kHighBase, 513, kDescWrite);
    const auto used = guest->submit(0);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->len, elsewhere->len);
  });
}

TEST_P(HostileChain, AReadableBufferAfterAWritableOneComesBackEmpty) {
  on_each_queue([&](FakeGuest* guest) {
    guest->ring().descriptor(0, kBuffers, 16, kDescWrite | kDescNext, 1);
    guest->ring().descriptor(1, kBuffers + 0x100, 16);
    expect_returned_empty(*guest, 0);
  });
}

TEST_P(HostileChain, EmptyBuffersAreHarmless) {
  on_each_queue([&](FakeGuest* guest) {
    guest->ring().descriptor(0, kBuffers, 0, kDescNext, 1);
    guest->ring().descriptor(1, kBuffers, 0, kDescWrite);
    ASSERT_TRUE(guest->submit(0));
    EXPECT_TRUE(guest->alive());
  });
}

TEST_P(HostileChain, ManyMalformedChainsAllComeBack) {
  on_each_queue([&](FakeGuest* guest) {
    FakeRing& ring = guest->ring();
    for (uint16_t i = 0; i < ring.size(); ++i) {
      ring.descriptor(i, kBuffers, 16, kDescNext, i);
      ring.offer(i);
    }
    guest->transport->kick(guest->main);
    ASSERT_TRUE(guest->wait_used(guest->main, ring.size()));
    for (uint16_t i = 0; i < ring.size(); ++i) EXPECT_EQ(ring.used(i).len, 0U);
    EXPECT_TRUE(guest->alive());
  });
}

// Fact 8: a length changed between two reads of it.
TEST_P(HostileChain, DescriptorsThatChangeWhileTheyAreReadAreHarmless) {
  on_each_queue([&](FakeGuest* guest) {
    std::atomic<bool> stop{false};
    guest->probe_chain(0);
    std::thread attacker([&] {
      FakeRing& ring = guest->ring();
      while (!stop.load(std::memory_order_relaxed)) {
        ring.descriptor(1, kBuffers + 0x1000, 513, kDescWrite);
        ring.descriptor(1, kHighBase + (kHighSize - 512), 0xffff'ffff, kDescWrite);
        ring.descriptor(1, Gpa{kLowSize}, 1, kDescWrite | kDescNext, 0);
      }
    });
    for (int i = 0; i < 300; ++i) {
      if (!guest->submit(0)) {
        ADD_FAILURE() << "the chain never came back";
        break;
      }
    }
    stop = true;
    attacker.join();
    EXPECT_TRUE(guest->alive());
  });
}

MV_FOR_EVERY_DEVICE(HostileChain);

}  // namespace
}  // namespace minivmm::test
