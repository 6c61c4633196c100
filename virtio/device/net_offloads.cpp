#include "virtio/device/net_offloads.h"

#include <array>

#include "virtio/spec.h"

namespace minivmm::net {

namespace {

using virtio::feature_bit;

struct Pair {
  NetOffloads offload;
  NetOffloads needs;  // at least one of these
  uint64_t host;
  uint64_t guest;  // all of it
};
constexpr std::array kPairs{
    Pair{net_offload::kChecksum, net_offload::kChecksum, feature_bit(kFeatureCsum),
         feature_bit(kFeatureGuestCsum)},
    Pair{net_offload::kTso4, net_offload::kChecksum, feature_bit(kFeatureHostTso4),
         feature_bit(kFeatureGuestTso4)},
    Pair{net_offload::kTso6, net_offload::kChecksum, feature_bit(kFeatureHostTso6),
         feature_bit(kFeatureGuestTso6)},
    Pair{net_offload::kTsoEcn, net_offload::kTso4 | net_offload::kTso6, feature_bit(kFeatureHostEcn),
         feature_bit(kFeatureGuestEcn)},
    Pair{net_offload::kUso, net_offload::kChecksum, feature_bit(kFeatureHostUso),
         feature_bit(kFeatureGuestUso4) | feature_bit(kFeatureGuestUso6)},
};

uint64_t features_of(NetOffloads offloads, uint64_t Pair::* which) {
  uint64_t features = 0;
  for (const Pair& pair : kPairs) {
    if ((offloads & pair.offload) != 0) features |= pair.*which;
  }
  return features;
}

NetOffloads offloads_of(uint64_t features, uint64_t Pair::* which) {
  NetOffloads offloads = 0;
  for (const Pair& pair : kPairs) {  // in the order of their dependencies
    if ((features & pair.*which) != pair.*which) continue;
    if (((offloads | (pair.needs & pair.offload)) & pair.needs) == 0) continue;
    offloads = static_cast<NetOffloads>(offloads | pair.offload);
  }
  return offloads;
}

// 0: none that we know.
NetOffloads offload_of(uint8_t gso_type) {
  switch (gso_type) {
    case kGsoTcp4: return net_offload::kTso4;
    case kGsoTcp6: return net_offload::kTso6;
    case kGsoUdp: return net_offload::kUso;
    default: return 0;
  }
}

}  // namespace

uint64_t host_features(NetOffloads takes) {
  return features_of(takes, &Pair::host);
}

uint64_t guest_features(NetOffloads gives) {
  return features_of(gives, &Pair::guest);
}

NetOffloads host_offloads(uint64_t features) {
  return offloads_of(features, &Pair::host);
}

NetOffloads guest_offloads(uint64_t features) {
  return offloads_of(features, &Pair::guest);
}

Result<void> check_header(Header& header, uint64_t frame_bytes, NetOffloads allowed) {
  Header good{};
  if ((header.flags & kHeaderNeedsCsum) != 0) {
    if ((allowed & net_offload::kChecksum) == 0) return fail(Errc::invalid, "a partial checksum unasked");
    // 5.1.6.2: the checksum covers what follows csum_start, and its 16 bits lie within that.
    if (uint64_t{header.csum_start} + header.csum_offset + sizeof(uint16_t) > frame_bytes) {
      return fail(Errc::invalid, "a checksum outside its frame");
    }
    good.flags = kHeaderNeedsCsum;
    good.csum_start = header.csum_start;
    good.csum_offset = header.csum_offset;
  } else if ((allowed & net_offload::kChecksum) != 0) {
    good.flags = header.flags & kHeaderDataValid;
  }
  if (header.gso_type != kGsoNone) {
    const auto type = static_cast<uint8_t>(header.gso_type & ~kGsoEcn);
    const NetOffloads offload = offload_of(type);
    const bool ecn = (header.gso_type & kGsoEcn) != 0;
    if ((offload & allowed) == 0 || (ecn && ((allowed & net_offload::kTsoEcn) == 0 || type == kGsoUdp))) {
      return fail(Errc::invalid, "a segmentation unasked or unknown");
    }
    // 5.1.6.2.1: segments are cut by who also completes their checksums.
    if (good.flags != kHeaderNeedsCsum || header.gso_size == 0 || header.csum_start < kEthernetHeader) {
      return fail(Errc::invalid, "a segmentation without checksum or size");
    }
    if (header.hdr_len > frame_bytes) return fail(Errc::invalid, "headers longer than their frame");
    good.gso_type = header.gso_type;
    good.gso_size = header.gso_size;
    good.hdr_len = header.hdr_len;
  }
  header = good;
  return {};
}

}  // namespace minivmm::net
