#include "devices/serial_16550.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/unit/devices/fakes.h"

namespace minivmm {
namespace {

using test::read8;
using test::write8;

// A cable whose room and input the test decides.
class FakeCable final : public SerialBackend {
 public:
  void connect(SerialPort* p) override { port = p; }
  size_t write(std::span<const std::byte> data) override {
    const size_t n = std::min(data.size(), room);
    for (const std::byte b : data.first(n)) sent.push_back(std::to_integer<char>(b));
    room -= n;
    return n;
  }
  void resume_input() override { ++resumed; }
  void flush() override {}

  size_t feed(std::string_view text) {
    const size_t n = std::min(text.size(), port->input_room());
    port->input(std::as_bytes(std::span(text.substr(0, n))));
    return n;
  }

  SerialPort* port = nullptr;
  std::string sent;
  size_t room = SIZE_MAX;
  int resumed = 0;
};

constexpr uint8_t kNoInterrupt = 0x01;

class Serial : public testing::Test {
 protected:
  uint8_t get(uint64_t port) { return read8(uart, port); }
  void put(uint64_t port, unsigned v) { write8(uart, port, v); }
  // What Linux's serial8250_startup leaves.
  void open() {
    put(2, 0x01);
    put(3, 0x03);
    put(4, 0x0b);
    put(1, 0x05);
  }

  test::FakeLine irq;
  FakeCable cable;
  Serial16550 uart{"serial0", irq, cable};
};

TEST_F(Serial, IsIdleAfterReset) {
  EXPECT_EQ(get(1), 0x00);
  EXPECT_EQ(get(2), kNoInterrupt);
  EXPECT_EQ(get(5), 0x60);
  EXPECT_EQ(get(6), 0xb0);
  EXPECT_FALSE(irq.high());
}

TEST_F(Serial, SendsWhatIsWritten) {
  for (const char c : std::string("hello\n")) put(0, static_cast<unsigned>(c));
  EXPECT_EQ(cable.sent, "hello\n");
  EXPECT_EQ(get(5) & 0x60, 0x60);
}

TEST_F(Serial, KeepsDivisorApartFromData) {
  put(3, 0x83);
  put(0, 0x01);
  put(1, 0x02);
  EXPECT_EQ(get(0), 0x01);
  EXPECT_EQ(get(1), 0x02);
  put(3, 0x03);
  EXPECT_EQ(get(1), 0x00);
  EXPECT_EQ(cable.sent, "");
}

TEST_F(Serial, KeepsScratchAndLowIerBitsOnly) {
  put(7, 0xa5);
  EXPECT_EQ(get(7), 0xa5);
  put(1, 0xff);
  EXPECT_EQ(get(1), 0x0f);
}

// The steps of Linux's 8250_port.c, autoconfig() and autoconfig_16550a().
TEST_F(Serial, IsFoundAsA16550AByLinux) {
  put(4, 0x10 | 0x0a);
  EXPECT_EQ(get(6) & 0xf0, 0x90);
  put(4, 0x00);
  put(2, 0x01);
  EXPECT_EQ(get(2) >> 6, 3);
  put(3, 0x80);
  EXPECT_NE(get(2), 0) << "an EFR would mean a 16650";
  put(3, 0xbf);
  EXPECT_NE(get(2), 0);
  put(3, 0x00);
  put(2, 0x01 | 0x20);
  EXPECT_EQ(get(2) >> 5, 6);
  put(2, 0x01);
  put(3, 0x80);
  put(2, 0x01 | 0x20);
  EXPECT_EQ(get(2) >> 5, 6) << "7 would mean a 16750 with 64 bytes";
}

TEST_F(Serial, HasSixteenBytesInLoopback) {
  put(2, 0x01);
  put(4, 0x10);
  for (int i = 0; i < 256; ++i) put(0, static_cast<unsigned>(i));
  int count = 0;
  while ((get(5) & 0x01) != 0 && count < 300) {
    EXPECT_EQ(get(0), count);
    ++count;
  }
  EXPECT_EQ(count, 16);
  EXPECT_EQ(cable.sent, "");
}

TEST_F(Serial, TellsAnOverrunOnce) {
  put(4, 0x10);
  put(1, 0x04);
  put(0, 'a');
  EXPECT_FALSE(irq.high());
  put(0, 'b');
  EXPECT_TRUE(irq.high());
  EXPECT_EQ(get(2), 0x06);
  EXPECT_EQ(get(5), 0x63);
  EXPECT_EQ(get(5), 0x61);
  EXPECT_FALSE(irq.high());
}

TEST_F(Serial, WiresModemOutputsToInputsInLoopback) {
  get(6);
  put(4, 0x1f);
  EXPECT_EQ(get(6) & 0xf0, 0xf0);
  put(4, 0x10);
  EXPECT_EQ(get(6), 0x0f) << "all four have changed, the ring indicator by falling";
  EXPECT_EQ(get(6), 0x00);
}

TEST_F(Serial, InterruptsOnAModemLine) {
  put(1, 0x08);
  put(4, 0x10);
  EXPECT_TRUE(irq.high());
  EXPECT_EQ(get(2), 0x00);
  get(6);
  EXPECT_FALSE(irq.high());
}

TEST_F(Serial, RaisesThreEachTimeItIsEnabled) {
  put(1, 0x02);
  EXPECT_TRUE(irq.high());
  EXPECT_EQ(get(2), 0x02);
  EXPECT_FALSE(irq.high()) << "reading IIR takes it back";
  EXPECT_EQ(get(2), kNoInterrupt);
  put(1, 0x00);
  put(1, 0x02);
  EXPECT_TRUE(irq.high());
  EXPECT_EQ(get(2), 0x02);
  put(0, 'x');
  EXPECT_EQ(get(2), 0x02) << "and comes again after a byte has gone";
}

TEST_F(Serial, PutsInputBeforeTransmitterInPriority) {
  open();
  put(1, 0x07);
  cable.feed("a");
  EXPECT_EQ(get(2), 0xc4);
  EXPECT_EQ(get(0), 'a');
  EXPECT_EQ(get(2), 0xc2);
  EXPECT_EQ(get(2), 0xc0 | kNoInterrupt);
}

TEST_F(Serial, InterruptsFromTheFirstByteUntilTheLastIsRead) {
  open();
  cable.feed("ab");
  EXPECT_TRUE(irq.high());
  EXPECT_EQ(get(0), 'a');
  EXPECT_TRUE(irq.high());
  EXPECT_EQ(get(0), 'b');
  EXPECT_FALSE(irq.high());
  EXPECT_EQ(get(5) & 0x01, 0);
}

TEST_F(Serial, LosesNothingTypedBeforeTheGuestOpensIt) {
  const std::string typed = "typed before the guest was there";
  cable.feed(typed);
  put(4, 0x10 | 0x0a);  // what a driver does while it probes
  put(4, 0x00);
  put(2, 0x07);
  get(5);
  get(0);
  get(2);
  open();
  std::string read;
  while ((get(5) & 0x01) != 0) read.push_back(static_cast<char>(get(0)));
  EXPECT_EQ(read, typed);
}

TEST_F(Serial, GivesInputToAPollingProgramThatNeverTouchesModemControl) {
  cable.feed("p");
  EXPECT_EQ(get(5) & 0x01, 0x01);
  EXPECT_EQ(get(0), 'p');
}

TEST_F(Serial, HoldsInputBackWhileRtsIsOff) {
  open();
  put(4, 0x09);
  cable.feed("x");
  EXPECT_EQ(get(5) & 0x01, 0);
  EXPECT_FALSE(irq.high());
  put(4, 0x0b);
  EXPECT_TRUE(irq.high());
  EXPECT_EQ(get(0), 'x');
}

TEST_F(Serial, BoundsInputThatNobodyReads) {
  open();
  const std::string much(1 << 20, 'x');
  size_t taken = 0;
  for (int i = 0; i < 100; ++i) taken += cable.feed(much);
  EXPECT_EQ(taken, 1024U);
  cable.port->input(std::as_bytes(std::span(much)));  // a back end that does not ask
  for (size_t i = 0; i < taken; ++i) {
    if (i < 511) {
      EXPECT_EQ(cable.resumed, 0);
    }
    get(0);
  }
  EXPECT_EQ(cable.resumed, 1) << "once, when half the room was free again";
  EXPECT_EQ(get(5) & 0x01, 0);
}

TEST_F(Serial, MakesTheGuestWaitForASlowReader) {
  cable.room = 2;
  put(1, 0x02);
  get(2);
  put(0, 'a');
  get(2);
  put(0, 'b');
  get(2);
  put(0, 'c');
  EXPECT_EQ(get(5) & 0x60, 0x00);
  EXPECT_FALSE(irq.high());
  cable.room = 100;
  cable.port->output_drained();
  EXPECT_EQ(get(5) & 0x60, 0x60);
  EXPECT_TRUE(irq.high());
  EXPECT_EQ(cable.sent, "abc");
}

TEST_F(Serial, BoundsOutputOfAGuestThatDoesNotWait) {
  cable.room = 0;
  for (int i = 0; i < 100000; ++i) put(0, 'x');
  cable.room = SIZE_MAX;
  cable.port->output_drained();
  EXPECT_EQ(cable.sent, std::string(16, 'x'));
}

TEST_F(Serial, ClearsItsFifosOnRequest) {
  open();
  cable.feed(std::string(20, 'r'));
  cable.room = 0;
  put(0, 't');
  put(2, 0x07);
  EXPECT_EQ(get(5) & 0x60, 0x60);
  int left = 0;
  while ((get(5) & 0x01) != 0) {
    get(0);
    ++left;
  }
  EXPECT_EQ(left, 4) << "sixteen were in the FIFO, the rest still on the wire";
}

TEST_F(Serial, SurvivesHostileAccesses) {
  test::poke_everywhere(uart, kSerialPorts);
}

TEST_F(Serial, KeepsDataInFlightOverSaveAndLoad) {
  open();
  put(1, 0x07);
  put(7, 0x77);
  cable.feed("incoming");
  cable.room = 0;
  put(0, 'o');
  put(0, 'k');
  const auto state = test::saved(uart);

  test::FakeLine irq2;
  FakeCable cable2;
  Serial16550 copy("serial0", irq2, cable2);
  ASSERT_TRUE(test::load(copy, state));
  EXPECT_EQ(cable2.sent, "ok");
  EXPECT_TRUE(irq2.high());
  EXPECT_EQ(read8(copy, 7), 0x77);
  std::string read;
  while ((read8(copy, 5) & 0x01) != 0) read.push_back(static_cast<char>(read8(copy, 0)));
  EXPECT_EQ(read, "incoming");
}

TEST_F(Serial, TakesOrRefusesDamagedState) {
  open();
  cable.feed("abc");
  test::load_damaged(uart, test::saved(uart));
}

TEST_F(Serial, ResetKeepsInputForTheNextBoot) {
  open();
  cable.feed("later");
  uart.reset();
  EXPECT_FALSE(irq.high());
  EXPECT_EQ(get(1), 0);
  EXPECT_EQ(get(0), 'l');
}

TEST(SerialInput, ComesAFifosWorthAtATimeWithAPauseAfterEach) {
  test::FakeLine irq;
  test::FakeTime time;
  FakeCable cable;
  Serial16550 uart("serial0", irq, cable, &time);
  write8(uart, 2, 0x01);
  write8(uart, 4, 0x0b);
  write8(uart, 1, 0x01);
  std::string text;
  for (int i = 0; i < 40; ++i) text += static_cast<char>('a' + i % 26);
  ASSERT_EQ(cable.feed(text), 40U);
  std::string got;
  for (const size_t batch : {16U, 16U, 8U}) {
    EXPECT_TRUE(irq.high());
    size_t n = 0;
    for (; (read8(uart, 5) & 0x01) != 0; ++n) got += static_cast<char>(read8(uart, 0));
    EXPECT_EQ(n, batch);
    EXPECT_FALSE(irq.high());
    time.advance(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(got, text);
  cable.feed("z");
  EXPECT_EQ(read8(uart, 0), 'z');
}

}  // namespace
}  // namespace minivmm
