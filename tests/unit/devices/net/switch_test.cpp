#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <latch>
#include <thread>

#include "devices/net/internal/switch_port.h"
#include "tests/temp_folder.h"
#include "tests/unit/devices/net/packets.h"
#include "vmm/core/error.h"

namespace minivmm {
namespace {

using namespace test;

constexpr const char* kName = "lan1";

// A machine's place, its address, and its worker's wait.
struct Member {
  explicit Member(const std::filesystem::path& folder, uint8_t number, NetOffloads allowed = 0xff)
      : port(folder, kName), address(mac(number)), waiter(queue()) {
    EXPECT_TRUE(static_cast<NetBackend&>(port).allow(allowed));
  }
  NetQueue& queue() { return port.queue(0); }
  Result<bool> send_to(const MacAddress& to, size_t size = 46, uint8_t mark = 0) {
    return send(queue(), make_frame(to, address, size, mark));
  }
  // Frames that are already there, and are none of ours to expect.
  size_t drain() {
    size_t count = 0;
    for (;;) {
      const auto frame = receive_now(queue());
      if (frame && frame->empty()) return count;
      if (frame) ++count;
    }
  }
  std::optional<Bytes> next() { return receive_frame(queue(), waiter); }

  SwitchPort port;
  MacAddress address;
  Waiter waiter;
};

// Both know where the other one is.
void introduce(Member& a, Member& b) {
  ASSERT_TRUE(a.send_to(kBroadcast));
  ASSERT_TRUE(b.next());
  ASSERT_TRUE(b.send_to(a.address));
  ASSERT_TRUE(a.next());
}

// A connection to the member whose socket is the only one in the folder, as a program that is none of ours
// makes it.
UniqueFd intrude(const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder / kName)) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    entry.path().string().copy(address.sun_path, sizeof address.sun_path - 1);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  }
  return {};
}

TEST(InternalNet, TwoMachinesReachEachOther) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  Member b(folder.path(), 2);
  ASSERT_TRUE(a.send_to(kBroadcast, 60, 7));
  const auto heard = b.next();
  ASSERT_TRUE(heard);
  EXPECT_EQ(packet_of(*heard), packet_of(make_frame(kBroadcast, a.address, 60, 7)));
  ASSERT_TRUE(b.send_to(a.address, 1500, 8));
  const auto answer = a.next();
  ASSERT_TRUE(answer);
  EXPECT_EQ(packet_of(*answer), packet_of(make_frame(a.address, b.address, 1500, 8)));
}

TEST(InternalNet, AThirdHearsOnlyWhatIsForAll) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  Member b(folder.path(), 2);
  Member c(folder.path(), 3);
  introduce(a, b);
  ASSERT_TRUE(c.next()) << "the broadcast";
  c.drain();
  ASSERT_TRUE(a.send_to(b.address, 46, 1));
  ASSERT_TRUE(b.next());
  ASSERT_TRUE(a.send_to(kBroadcast, 46, 2));
  const auto heard = c.next();
  ASSERT_TRUE(heard);
  EXPECT_EQ(heard->back(), std::byte{2});
}

TEST(InternalNet, SegmentsOfOtherNamesAreApart) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  SwitchPort other(folder.path(), "lan2");
  ASSERT_TRUE(a.send_to(kBroadcast));
  const auto heard = receive_now(static_cast<NetBackend&>(other).queue(0));
  EXPECT_TRUE(heard && heard->empty());
}

TEST(InternalNet, AFrameOfTheLargestSizeGoesThrough) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  Member b(folder.path(), 2);
  const size_t most = kMaxFrame - kNetHeaderSize - 14;
  ASSERT_TRUE(a.send_to(kBroadcast, most, 5));
  const auto heard = b.next();
  ASSERT_TRUE(heard);
  EXPECT_EQ(heard->size(), kMaxFrame);
  EXPECT_EQ(heard->back(), std::byte{5});
  EXPECT_EQ(a.send_to(kBroadcast, most + 1).error().code, Errc::invalid);
}

TEST(InternalNet, OthersGoOnWhenOneLeaves) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  Member b(folder.path(), 2);
  MacAddress gone;
  {
    Member c(folder.path(), 3);
    gone = c.address;
    introduce(c, a);
  }
  b.drain();
  ASSERT_TRUE(a.send_to(gone, 46, 9)) << "nobody takes it";
  ASSERT_TRUE(a.send_to(gone, 46, 9)) << "and it is not remembered where it was";
  introduce(a, b);
  Member again(folder.path(), 3);
  introduce(again, a);
}

TEST(InternalNet, WhatADeadMemberLeftIsRemoved) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  const auto corpse = folder.path() / kName / "999-0000.member";
  {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    corpse.string().copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  ASSERT_TRUE(std::filesystem::exists(corpse));
  Member b(folder.path(), 2);
  EXPECT_FALSE(std::filesystem::exists(corpse));
  introduce(a, b);
}

TEST(InternalNet, TheLastOneRemovesTheFolder) {
  const TempFolder folder;
  {
    Member a(folder.path(), 1);
    Member b(folder.path(), 2);
  }
  EXPECT_FALSE(std::filesystem::exists(folder.path() / kName));
}

TEST(InternalNet, ManyThatJoinAtOnceAllReachEachOther) {
  constexpr size_t kMembers = 24;
  const TempFolder folder;
  std::vector<std::unique_ptr<Member>> members(kMembers);
  {
    std::latch together(kMembers);
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < kMembers; ++i) {
      threads.emplace_back([&, i] {
        together.arrive_and_wait();
        members[i] = std::make_unique<Member>(folder.path(), static_cast<uint8_t>(i));
      });
    }
  }
  for (auto& member : members) member->drain();  // takes in the newcomers
  for (auto& member : members) ASSERT_TRUE(member->send_to(kBroadcast));
  for (auto& member : members) EXPECT_EQ(member->drain(), kMembers - 1) << "each other one, once";
}

TEST(InternalNet, MembersComeAndGoUnderTraffic) {
  const TempFolder folder;
  Member steady(folder.path(), 200);
  std::atomic<bool> over = false;
  std::jthread listener([&] {
    while (!over) {
      steady.drain();
      EXPECT_TRUE(steady.send_to(kBroadcast, 1000));
      steady.waiter.wait(std::chrono::milliseconds(5));
    }
  });
  {
    std::vector<std::jthread> threads;
    for (uint8_t i = 0; i < 4; ++i) {
      threads.emplace_back([&folder, i] {
        for (int round = 0; round < 50; ++round) {
          Member member(folder.path(), i);
          EXPECT_TRUE(member.send_to(mac(200), 1400));
          EXPECT_TRUE(member.send_to(kBroadcast));
          EXPECT_TRUE(member.next()) << "of the steady one at least";
        }
      });
    }
  }
  over = true;
  listener.join();
  Member late(folder.path(), 1);
  introduce(late, steady);
}

TEST(InternalNet, AMemberThatDoesNotReadStopsNobodyForLong) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  Member b(folder.path(), 2);
  Member deaf(folder.path(), 3);
  introduce(a, b);
  introduce(a, deaf);
  b.drain();
  // Until it is full, and then until it is given up.
  const auto begin = std::chrono::steady_clock::now();
  bool waited = false;
  for (int i = 0; i < 5'000; ++i) {
    while (!*a.send_to(deaf.address, 60'000)) {
      waited = true;
      ASSERT_TRUE(a.waiter.wait()) << "told to try again";
    }
  }
  EXPECT_TRUE(waited);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kPatience);
  EXPECT_TRUE(went_out(a.send_to(b.address, 46, 4))) << "at once";
  const auto heard = b.next();
  ASSERT_TRUE(heard);
  EXPECT_EQ(heard->back(), std::byte{4});
  deaf.drain();
  introduce(a, deaf);
}

TEST(InternalNet, ASenderIsToldOfRoom) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  Member b(folder.path(), 2);
  introduce(a, b);
  size_t sent = 0;
  size_t got = 0;
  for (; sent < 2'000; ++sent) {
    while (!*a.send_to(b.address, 60'000)) {
      got += b.drain();  // that makes room
      ASSERT_TRUE(a.waiter.wait());
    }
  }
  got += b.drain();
  EXPECT_EQ(got, sent) << "none is lost to one who reads";
}

TEST(InternalNet, RoomIsToldEvenToOneWhoLooksForFramesFirst) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  Member b(folder.path(), 2);
  introduce(a, b);
  while (*a.send_to(b.address, 60'000)) {
  }
  b.drain();
  a.drain();  // consumes what was meant for the sender
  EXPECT_TRUE(a.queue().ready()) << "and it is said again";
  EXPECT_TRUE(a.waiter.wait());
}

TEST(InternalNet, HostileFramesAreDroppedAndNothingElse) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  const UniqueFd hostile = intrude(folder.path());
  ASSERT_TRUE(hostile);
  Bytes bad_checksum = make_packet({.gso_size = 0});
  bad_checksum[6] = bad_checksum[7] = std::byte{0xff};
  Bytes bad_gso = make_packet({});
  bad_gso[1] = std::byte{3};  // UFO, which nobody offers
  Bytes no_size = make_packet({});
  no_size[4] = no_size[5] = std::byte{};
  const Bytes good = make_frame(a.address, mac(9), 46, 6);
  for (const NetOffloads allowed : {NetOffloads{0xff}, NetOffloads{0}}) {
    ASSERT_TRUE(static_cast<NetBackend&>(a.port).allow(allowed));
    for (const Bytes& frame :
         {Bytes(1), Bytes(25), bad_checksum, bad_gso, no_size, Bytes(kMaxFrame + 1), good})
      ASSERT_GT(::send(hostile.get(), frame.data(), frame.size(), MSG_NOSIGNAL), 0);
    const auto heard = a.next();
    ASSERT_TRUE(heard);
    EXPECT_EQ(packet_of(*heard), packet_of(good));
  }
  Member b(folder.path(), 2);
  introduce(a, b);
}

TEST(InternalNet, AnEmptyFrameEndsTheConnectionThatItCameBy) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  Member b(folder.path(), 2);
  introduce(a, b);
  const UniqueFd hostile = intrude(folder.path());
  ASSERT_TRUE(hostile);
  ASSERT_EQ(::send(hostile.get(), "", 0, MSG_NOSIGNAL), 0);
  a.drain();
  b.drain();
  introduce(b, a);
}

TEST(InternalNet, AGuestWithoutOffloadsGetsSmallFramesWithChecksums) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  Member plain(folder.path(), 2, 0);
  for (const Packet& packet :
       {Packet{}, Packet{.ip6 = true, .gso_size = 1428}, Packet{.tcp = false, .gso_size = 1000}}) {
    ASSERT_TRUE(send(a.queue(), make_packet(packet)));
    size_t payload = 0;
    while (payload < packet.payload) {
      const auto frame = plain.next();
      ASSERT_TRUE(frame);
      EXPECT_TRUE(is_whole(*frame, packet));
      payload += frame->size() - packet.data();
    }
    EXPECT_EQ(payload, packet.payload);
  }
}

TEST(InternalNet, AGuestWithOffloadsGetsThePacketWhole) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  Member b(folder.path(), 2);
  const Bytes packet = make_packet({.payload = 60'000});
  ASSERT_TRUE(send(a.queue(), packet));
  const auto heard = b.next();
  ASSERT_TRUE(heard);
  EXPECT_EQ(*heard, packet);
}

TEST(InternalNet, AFrameThatDoesNotFitIsGone) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  for (const NetOffloads allowed : {NetOffloads{0xff}, NetOffloads{0}}) {
    Member b(folder.path(), 2, allowed);
    ASSERT_TRUE(a.send_to(kBroadcast, 1500));
    ASSERT_TRUE(b.queue().ready() || b.waiter.wait());
    EXPECT_EQ(receive_now(b.queue(), 1000).error().code, Errc::too_large);
    EXPECT_TRUE(receive_now(b.queue())->empty());
  }
}

TEST(InternalNet, AGuestsFrameThatMakesNoSenseIsRefused) {
  const TempFolder folder;
  Member a(folder.path(), 1);
  EXPECT_EQ(send(a.queue(), Bytes(20)).error().code, Errc::invalid);
  Bytes bad = make_packet({});
  bad[1] = std::byte{0x7f};
  EXPECT_EQ(send(a.queue(), bad).error().code, Errc::invalid);
}

TEST(InternalNet, NamesThatLeaveTheFolderAreRefused) {
  for (const char* good : {"lan1", "a", "my-net_2.x"}) EXPECT_TRUE(is_segment_name(good));
  for (const char* bad : {"", ".", "..", ".x", "a/b", "a b", "0123456789012345678901234567890123"})
    EXPECT_FALSE(is_segment_name(bad)) << bad;
}

TEST(InternalNet, AFolderThatOthersCanWriteToIsRefused) {
  const TempFolder folder;
  const auto before = [] {
    const char* value = std::getenv("XDG_RUNTIME_DIR");
    return std::string(value == nullptr ? "" : value);
  }();
  ::setenv("XDG_RUNTIME_DIR", folder.path().c_str(), 1);
  EXPECT_EQ(segments_folder(), folder.path() / "minivmm" / "net");
  ::chmod((folder.path() / "minivmm").c_str(), 0777);
  EXPECT_THROW(segments_folder(), HostError);
  if (before.empty()) {
    ::unsetenv("XDG_RUNTIME_DIR");
  } else {
    ::setenv("XDG_RUNTIME_DIR", before.c_str(), 1);
  }
}

}  // namespace
}  // namespace minivmm
