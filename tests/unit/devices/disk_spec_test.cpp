#include "devices/block/disk_spec.h"

#include <gtest/gtest.h>

#include "vmm/core/error.h"

namespace minivmm {
namespace {

TEST(DiskSpec, APathAloneIsAWritableDiskOfAnyFormat) {
  const DiskSpec spec = parse_disk_spec("root.img");
  EXPECT_EQ(spec.path, "root.img");
  EXPECT_EQ(spec.format, "");
  EXPECT_FALSE(spec.read_only);
  EXPECT_EQ(spec.cache, CacheMode::writeback);
  EXPECT_TRUE(spec.discard);
  EXPECT_FALSE(spec.temporary_overlay);
  EXPECT_EQ(spec.overlay, "");
  EXPECT_FALSE(spec.queues.has_value());
  EXPECT_FALSE(spec.serial.has_value());
  EXPECT_EQ(spec.requests.per_second, 0U);
  EXPECT_EQ(spec.bytes.per_second, 0U);
}

TEST(DiskSpec, EverySettingArrives) {
  const DiskSpec spec = parse_disk_spec(
      "a=b,,c.qcow2,format=qcow2,cache=none,queues=4,iops=1000,iops-burst=5000,bps=10M,bps-burst=64M,"
      "serial=root,discard=off,overlay=/tmp/x.qcow2,backing=trusted");
  EXPECT_EQ(spec.path, "a=b,c.qcow2");
  EXPECT_EQ(spec.format, "qcow2");
  EXPECT_EQ(spec.cache, CacheMode::none);
  EXPECT_EQ(spec.queues, 4);
  EXPECT_EQ(spec.requests.per_second, 1000U);
  EXPECT_EQ(spec.requests.burst, 5000U);
  EXPECT_EQ(spec.bytes.per_second, 10U << 20);
  EXPECT_EQ(spec.bytes.burst, 64U << 20);
  EXPECT_EQ(spec.serial, "root");
  EXPECT_FALSE(spec.discard);
  EXPECT_EQ(spec.overlay, "/tmp/x.qcow2");
  EXPECT_FALSE(spec.temporary_overlay);
  EXPECT_EQ(spec.backing, BackingTrust::trusted);
}

TEST(DiskSpec, OverlayTempIsNoFileName) {
  const DiskSpec spec = parse_disk_spec("root.img,overlay=temp,format=auto,cache=unsafe");
  EXPECT_TRUE(spec.temporary_overlay);
  EXPECT_EQ(spec.overlay, "");
  EXPECT_EQ(spec.cache, CacheMode::unsafe);
  EXPECT_EQ(parse_disk_spec("root.img,overlay=./temp").overlay, "./temp");
}

TEST(DiskSpec, WhatMakesNoSenseIsAUsageError) {
  for (const char* text : {"",
                           "readonly=on",
                           "x,queues=0",
                           "x,queues=65",
                           "x,queues=2x",
                           "x,queues=99999999999999999999",
                           "x,format=qed",
                           "x,format=paper",
                           "x,serial=123456789012345678901",
                           "x,colour=red",
                           "x,iops=many",
                           "x,iops=-1",
                           "x,iops-burst=5",
                           "x,bps-burst=5M",
                           "x,bps=1X",
                           "x,cache=writethrough",
                           "x,overlay",
                           "x,overlay=",
                           "x,readonly=on,overlay=temp",
                           "x,readonly=on,readonly=off",
                           "x,discard=maybe",
                           "x,backing=all"}) {
    EXPECT_THROW(parse_disk_spec(text), ConfigError) << text;
  }
}

}  // namespace
}  // namespace minivmm
