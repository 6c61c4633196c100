#include "devices/console_escape.h"

#include <gtest/gtest.h>

#include <string>

namespace minivmm {
namespace {

class Escape : public testing::Test {
 protected:
  std::string type(std::string text) {
    const size_t n = keys.filter(std::as_writable_bytes(std::span(text)));
    return text.substr(0, n);
  }
  int quits = 0;
  int helps = 0;
  ConsoleEscape keys{[this] { ++quits; }, [this] { ++helps; }};
};

TEST_F(Escape, LetsOrdinaryKeysThrough) {
  EXPECT_EQ(type("ls -x\n"), "ls -x\n");
  EXPECT_EQ(quits, 0);
}

TEST_F(Escape, QuitsAndHelps) {
  EXPECT_EQ(type("a\x01xb\x01hc"), "abc");
  EXPECT_EQ(quits, 1);
  EXPECT_EQ(helps, 1);
}

TEST_F(Escape, GivesALiteralCtrlA) {
  EXPECT_EQ(type("\x01\x01"), "\x01");
  EXPECT_EQ(type("\x01"
                 "a"),
            "\x01");
  EXPECT_EQ(type("x"), "x");
}

TEST_F(Escape, SwallowsUnknownKeys) {
  EXPECT_EQ(type("\x01qz"), "z");
}

TEST_F(Escape, RemembersCtrlAOverCalls) {
  EXPECT_EQ(type("\x01"), "");
  EXPECT_EQ(type("x"), "");
  EXPECT_EQ(quits, 1);
}

}  // namespace
}  // namespace minivmm
