#include "devices/net/frame_pieces.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

#include "devices/net/scatter.h"

namespace minivmm {
namespace {

// A piece without bytes may lie anywhere, and be nowhere at all.
constexpr iovec kEmpty{nullptr, 0};

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(FramePieces, AreReadAcrossOnesWithoutBytes) {
  std::string head = "frame";
  std::string tail = " in pieces";
  const std::array pieces{kEmpty, iovec{head.data(), head.size()}, kEmpty, iovec{tail.data(), tail.size()},
                          kEmpty};
  EXPECT_EQ(pieces_size(pieces), 15u);
  std::array<std::byte, 8> out{};
  EXPECT_EQ(copy_from_pieces(pieces, 3, out), out.size());
  EXPECT_EQ(text_of(out), "me in pi");
  EXPECT_EQ(copy_from_pieces(pieces, 15, out), 0u);
  EXPECT_EQ(copy_from_pieces(pieces, 0, {}), 0u);
}

TEST(FramePieces, AreWrittenAcrossOnesWithoutBytes) {
  std::array<std::byte, 5> head{};
  std::array<std::byte, 10> tail{};
  const std::array pieces{kEmpty, iovec{head.data(), head.size()}, kEmpty, iovec{tail.data(), tail.size()},
                          kEmpty};
  const std::string text = "frame in pieces, and more";
  EXPECT_EQ(copy_to_pieces(std::as_bytes(std::span(text)), pieces), 15u);
  EXPECT_EQ(text_of(head) + text_of(tail), "frame in pieces");
  EXPECT_EQ(copy_to_pieces({}, pieces), 0u);
}

TEST(FramePieces, BehindABeginningLeaveOutThoseWithoutBytes) {
  std::array<std::byte, 5> head{};
  std::array<std::byte, 10> tail{};
  const std::array pieces{kEmpty, iovec{head.data(), head.size()}, kEmpty, iovec{tail.data(), tail.size()}};
  std::array<iovec, 4> rest{};
  ASSERT_EQ(pieces_behind(pieces, 5, rest), 1u);
  EXPECT_EQ(rest[0].iov_base, tail.data());
  EXPECT_EQ(rest[0].iov_len, tail.size());
  ASSERT_EQ(pieces_behind(pieces, 2, rest), 2u);
  EXPECT_EQ(rest[0].iov_base, head.data() + 2);
  EXPECT_EQ(pieces_behind(pieces, 15, rest), 0u);
}

}  // namespace
}  // namespace minivmm
