#include "devices/block/open_qcow2.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "devices/block/backing_name.h"
#include "devices/block/chain_opener.h"
#include "devices/block/image_format.h"
#include "devices/block/open_formats.h"
#include "devices/block/qcow2/image.h"
#include "devices/block/unkillable.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr uint64_t kHeaderBytes = uint64_t{64} << 10;  // holds the header, if the clusters are no larger

std::vector<std::byte> read_start(IoEngine& engine, BlockFile& file, uint64_t bytes) {
  std::vector<std::byte> first(std::min(bytes, file.size()));
  const iovec piece{first.data(), first.size()};
  const auto read = engine.run(file.read(engine, 0, std::span(&piece, 1)));
  if (!read) {
    throw HostError(EIO, fmt::format("cannot read the disk image {}: {}", file.path(), read.error().what));
  }
  return first;
}

HostError no_image(const std::string& path, const std::string& why, const Error& error) {
  return {EINVAL, fmt::format("cannot use the qcow2 image {}: {}", path, why.empty() ? error.what : why)};
}

std::shared_ptr<BlockBackend> open_backing(ChainOpener& chain, const qcow2::Header& header,
                                           const std::string& path, size_t layer) {
  if (chain.options().below && layer == 0) return *chain.options().below;
  if (header.backing_file.empty()) return nullptr;
  const BackingTrust trust = chain.options().backing;
  const std::string name = resolve_backing_name(header.backing_file, path, trust);
  if (trust == BackingTrust::none) {
    throw HostError(EPERM, fmt::format("cannot use the disk image {}: it needs the backing file {}, and "
                                       "backing=none forbids one",
                                       path, name));
  }
  if (!chain.may_name_files(layer)) {
    throw HostError(
        EPERM,
        fmt::format("cannot use the disk image {}: it names the backing file {}, but its own format is "
                    "a guess, as the image above does not say it; say it there (minivmm disk rebase "
                    "--unsafe --backing FILE --backing-format qcow2), or add backing=trusted",
                    path, name));
  }
  const std::string format = header.backing_format().value_or("");
  if (format.empty()) {
    chain.warn(fmt::format("{} does not say the format of its backing file {}; it is guessed", path, name));
  }
  return chain.open(name, {.format = format,
                           .read_only = true,
                           .may_name_files = !format.empty() || trust == BackingTrust::trusted});
}

std::unique_ptr<BlockFile> open_data_file(ChainOpener& chain, const qcow2::Header& header,
                                          const BlockFile& image, size_t layer) {
  if (!header.has_data_file()) return nullptr;
  const std::string& path = image.path();
  const auto name = header.data_file();
  if (!name || name->empty()) {
    throw HostError(EINVAL, fmt::format("cannot use the qcow2 image {}: its data is in another file, whose "
                                        "name it does not say",
                                        path));
  }
  if (!chain.may_name_files(layer)) {
    throw HostError(EPERM, fmt::format("cannot use the disk image {}: it names the data file {}, but its own "
                                       "format is a guess, as the image above does not say it",
                                       path, *name));
  }
  const std::string data = resolve_backing_name(*name, path, BackingTrust::safe);
  chain.admit(data, "data file");
  chain.layer(layer).data_file = data;
  return BlockFile::open(
      data, {.read_only = image.read_only(), .cache = image.cache(), .blocking = image.blocking()});
}

}  // namespace

qcow2::Header read_qcow2_header(IoEngine& engine, BlockFile& file) {
  std::vector<std::byte> first = read_start(engine, file, kHeaderBytes);
  if (first.size() >= 24) {  // "Header": cluster_bits is at 20; the extensions may reach to the cluster's end
    const auto bits = std::to_integer<unsigned>(first[23]);
    const uint64_t cluster = uint64_t{1} << std::min(bits, qcow2::kMaxClusterBits);
    if (cluster > first.size()) first = read_start(engine, file, cluster);
  }
  std::string why;
  auto header = qcow2::decode_header(first, file.size(), why);
  if (!header) throw no_image(file.path(), why, header.error());
  return std::move(*header);
}

std::unique_ptr<BlockBackend> open_qcow2_image(ChainOpener& chain, std::unique_ptr<BlockFile> file,
                                               size_t layer) {
  const std::string path = file->path();
  const qcow2::Header header = read_qcow2_header(chain.engine(), *file);
  qcow2::Image::Options options;
  options.read_only = file->read_only();
  options.discard = chain.options().discard;
  options.data_file = open_data_file(chain, header, *file, layer);
  options.backing = open_backing(chain, header, path, layer);
  const bool lazy = (header.compatible & qcow2::kCompatLazyRefcounts) != 0;
  if (!options.read_only && !lazy && !can_be_unkillable()) {
    chain.warn(fmt::format(
        "{}: this host allows no helper process (clone(2)); should minivmm be killed, clusters of the "
        "image may be leaked (minivmm disk check --repair=leaks gives them back)",
        path));
  }
  std::string why;
  auto image =
      chain.engine().run(qcow2::Image::open(chain.engine(), std::move(file), std::move(options), why));
  if (!image) throw no_image(path, why, image.error());
  if (layer == 0) chain.set_top(image->get());
  return std::move(*image);
}

}  // namespace minivmm
