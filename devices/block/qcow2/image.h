// A qcow2 image at work: reads, writes, zeroes, discards, grows and shrinks, and is consistent on disk at
// every instant. docs/qcow2.md has its states and invariants.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "devices/block/block_backend.h"
#include "devices/block/block_file.h"
#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

class Runtime;

class Image final : public BlockBackend {
 public:
  struct Options {
    bool read_only = false;
    // What shows where this image has nothing; null: zeroes. May be shorter (the rest reads as zeroes) or
    // longer.
    std::shared_ptr<BlockBackend> backing;
    // For an image whose header says has_data_file(); open() fails with Errc::invalid without it.
    std::unique_ptr<BlockFile> data_file;
    bool discard = true;       // discards free clusters and are passed down to the file; else they do nothing
    uint64_t cache_bytes = 0;  // of L2 tables; 0: enough for the whole image, at most 32 MiB
  };

  // Takes over `file`, opened for writing unless options.read_only. Repairs the refcounts of a dirty image
  // that is opened for writing. `why` receives one line for a person when it fails: Errc::corrupt,
  // Errc::unsupported, Errc::too_large, Errc::invalid (options that do not fit the image), Errc::io.
  static Task<Result<std::unique_ptr<Image>>> open(IoEngine& engine, std::unique_ptr<BlockFile> file,
                                                   Options options, std::string& why);
  ~Image() override;

  Header header() const;  // as it is now
  BlockFile& file() const;
  const std::shared_ptr<BlockBackend>& backing() const;

  uint64_t capacity() const override;
  bool read_only() const override;
  BlockGeometry geometry() const override;  // optimal_io: the (sub)cluster
  std::string_view format() const override { return "qcow2"; }
  Task<Result<void>> run(IoEngine& engine, BlockRequest request) override;
  bool read_now(uint64_t offset, uint64_t length, std::span<const iovec> data) override;
  Task<Result<BlockExtent>> extent(IoEngine& engine, uint64_t offset, uint64_t length) override;
  Task<Result<void>> resize(IoEngine& engine, uint64_t capacity_bytes) override;
  Task<Result<void>> close(IoEngine& engine) override;

  // Stores one whole guest cluster (at `offset`, a multiple of the cluster size) as `compressed`, which was
  // made of `cluster` by the image's compression method elsewhere; as `cluster` where that is not smaller.
  // Errc::unsupported with an external data file.
  Task<Result<void>> write_compressed(IoEngine& engine, uint64_t offset, std::span<const std::byte> cluster,
                                      std::span<const std::byte> compressed);
  // Names another backing file and its format in the header (both empty: none), and syncs; what this object
  // reads from stays as it is. Errc::too_large: it does not fit into the header's cluster.
  Task<Result<void>> set_backing(IoEngine& engine, std::string file, std::string format);

 private:
  explicit Image(std::unique_ptr<Runtime> runtime);
  std::unique_ptr<Runtime> runtime_;
};

}  // namespace minivmm::qcow2
