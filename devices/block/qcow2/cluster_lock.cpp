#include "devices/block/qcow2/cluster_lock.h"

namespace minivmm::qcow2 {

bool ClusterLock::must_wait(const Hold& hold) const {
  if (exclusive_ == 0) return false;  // the common case: readers and writers in place only
  for (const Hold* other = hold.earlier_; other != nullptr; other = other->earlier_)
    if (other->conflicts(hold)) return true;
  return false;
}

bool ClusterLock::Hold::enter(std::coroutine_handle<> waiter) {
  waiter_ = waiter;
  run = [](IoPosted& self) { static_cast<Hold&>(self).waiter_.resume(); };
  const std::scoped_lock guard(lock_.guard_);
  entered_ = true;
  earlier_ = lock_.newest_;
  later_ = nullptr;
  (earlier_ != nullptr ? earlier_->later_ : lock_.oldest_) = this;
  lock_.newest_ = this;
  if (mode_ == Mode::exclusive) ++lock_.exclusive_;
  held_ = !lock_.must_wait(*this);
  if (!held_) ++lock_.waiting_;
  return !held_;
}

void ClusterLock::Hold::leave() {
  if (!entered_) return;
  const std::scoped_lock guard(lock_.guard_);
  entered_ = held_ = false;
  (earlier_ != nullptr ? earlier_->later_ : lock_.oldest_) = later_;
  (later_ != nullptr ? later_->earlier_ : lock_.newest_) = earlier_;
  if (mode_ == Mode::exclusive) --lock_.exclusive_;
  if (lock_.waiting_ == 0) return;
  for (Hold* other = later_; other != nullptr; other = other->later_) {
    if (other->held_ || !conflicts(*other) || lock_.must_wait(*other)) continue;
    other->held_ = true;
    --lock_.waiting_;
    other->engine_->post(*other);
  }
}

}  // namespace minivmm::qcow2
