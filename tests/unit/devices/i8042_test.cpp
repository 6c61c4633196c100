#include "devices/i8042.h"

#include <gtest/gtest.h>

#include "tests/unit/devices/fakes.h"

namespace minivmm {
namespace {

using test::read8;
using test::write8;

class Keyboard : public testing::Test {
 protected:
  uint8_t ask(unsigned command) {
    write8(kbd, kI8042Command, command);
    EXPECT_EQ(read8(kbd, kI8042Command) & 0x01, 0x01) << "an answer is there at once";
    return read8(kbd, kI8042Data);
  }
  int resets = 0;
  I8042 kbd{[this] { ++resets; }};
};

TEST_F(Keyboard, ResetsTheMachineByPulse) {
  EXPECT_EQ(read8(kbd, kI8042Command) & 0x02, 0) << "Linux waits for the input buffer first";
  write8(kbd, kI8042Command, 0xfe);
  EXPECT_EQ(resets, 1);
  write8(kbd, kI8042Command, 0xff);
  EXPECT_EQ(resets, 1) << "0xff pulses nothing";
}

TEST_F(Keyboard, ResetsTheMachineByOutputPort) {
  write8(kbd, kI8042Command, 0xd1);
  write8(kbd, kI8042Data, 0x03);
  EXPECT_EQ(resets, 0);
  write8(kbd, kI8042Command, 0xd1);
  write8(kbd, kI8042Data, 0x02);
  EXPECT_EQ(resets, 1);
}

TEST_F(Keyboard, PassesItsSelfTest) {
  EXPECT_EQ(ask(0xaa), 0x55);
  EXPECT_EQ(read8(kbd, kI8042Command) & 0x01, 0);
}

TEST_F(Keyboard, HasNoMouseAndSaysSoAtOnce) {
  write8(kbd, kI8042Command, 0xd3);
  write8(kbd, kI8042Data, 0x5a);
  const uint8_t status = read8(kbd, kI8042Command);
  EXPECT_EQ(status & 0x21, 0x01) << "an answer, and not from the auxiliary port";
  read8(kbd, kI8042Data);
  EXPECT_EQ(ask(0xa9), 0x01);
}

TEST_F(Keyboard, KeepsItsCommandByte) {
  write8(kbd, kI8042Command, 0x60);
  write8(kbd, kI8042Data, 0x47);
  EXPECT_EQ(ask(0x20), 0x47);
}

TEST_F(Keyboard, SurvivesHostileAccesses) {
  test::poke_everywhere(kbd, 8);
}

TEST_F(Keyboard, SavesAndLoads) {
  write8(kbd, kI8042Command, 0xaa);
  const auto state = test::saved(kbd);
  I8042 copy([] {});
  ASSERT_TRUE(test::load(copy, state));
  EXPECT_EQ(read8(copy, kI8042Data), 0x55);
  EXPECT_EQ(test::saved(copy).size(), state.size());
  test::load_damaged(copy, state);
}

}  // namespace
}  // namespace minivmm
