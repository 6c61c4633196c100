// When the guest is interrupted for the frames it has sent.
#include "virtio/device/net_tx_hold.h"

#include <gtest/gtest.h>

namespace minivmm {
namespace {

// Batches of one short frame that are asked about at once before the next one that is held.
unsigned asked_at_once(NetTxHold& hold) {
  unsigned count = 0;
  while (!hold.keep(1, 60)) ++count;
  return count;
}

TEST(NetTxHold, TriesOnlyNowAndThen) {
  NetTxHold hold;
  EXPECT_EQ(asked_at_once(hold), NetTxHold::kFirstTry);
  EXPECT_TRUE(hold.holding());
}

TEST(NetTxHold, HoldsEveryQuestionWhileTheDriverFindsThemByItself) {
  NetTxHold hold;
  asked_at_once(hold);
  for (int i = 0; i < 100; ++i) {
    hold.asked(false);
    EXPECT_FALSE(hold.holding());
    EXPECT_TRUE(hold.keep(1, 60));
  }
}

TEST(NetTxHold, TriesLessOftenEachTimeItIsInVain) {
  NetTxHold hold;
  asked_at_once(hold);
  for (unsigned between = NetTxHold::kFirstTry; between <= 2 * NetTxHold::kLastTry; between *= 2) {
    hold.asked(true);
    EXPECT_FALSE(hold.holding());
    EXPECT_EQ(asked_at_once(hold), std::min(between, NetTxHold::kLastTry));
  }
  hold.asked(false);
  EXPECT_TRUE(hold.keep(1, 60));
  hold.asked(true);
  EXPECT_EQ(asked_at_once(hold), NetTxHold::kFirstTry);
}

TEST(NetTxHold, HoldsNothingOfWhoSendsMuch) {
  NetTxHold hold;
  asked_at_once(hold);
  hold.asked(false);
  EXPECT_FALSE(hold.keep(NetTxHold::kMostFrames + 1, 300));
  EXPECT_FALSE(hold.keep(1, NetTxHold::kMostBytes + 1));
  EXPECT_FALSE(hold.keep(0, 0));
  EXPECT_FALSE(hold.holding());
  EXPECT_TRUE(hold.keep(NetTxHold::kMostFrames, 240));
}

}  // namespace
}  // namespace minivmm
