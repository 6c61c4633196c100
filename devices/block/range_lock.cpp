#include "devices/block/range_lock.h"

#include <algorithm>

namespace minivmm {

bool RangeLock::blocked(const Held& who) const {
  return std::any_of(in_order_.begin(), std::list<Held*>::const_iterator(who.place_), [&](const Held* other) {
    return (who.mode_ == Mode::exclusive || other->mode_ == Mode::exclusive) && who.begin_ < other->end_ &&
           other->begin_ < who.end_;
  });
}

bool RangeLock::Held::await_suspend(std::coroutine_handle<> handle) {
  waiter_ = handle;
  run = [](IoPosted& self) { static_cast<Held&>(self).waiter_.resume(); };
  const std::scoped_lock lock(owner_.guard_);
  place_ = owner_.in_order_.insert(owner_.in_order_.end(), this);
  granted_ = !owner_.blocked(*this);
  return !granted_;
}

void RangeLock::release(Held& who) {
  const std::scoped_lock lock(guard_);
  in_order_.erase(who.place_);
  for (Held* other : in_order_) {
    if (other->granted_ || blocked(*other)) continue;
    other->granted_ = true;
    other->engine_.post(*other);
  }
}

}  // namespace minivmm
