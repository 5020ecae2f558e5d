// A loop over constants, for what takes its counter as a template argument. Included inside an ISA's target
// region, or what it calls could not be inlined.

/// f(integral_constant 0), …, f(integral_constant kCount − 1).
template <int kCount, typename Body>
QUERN_INLINE void for_each(Body&& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) QUERN_INLINE_LAMBDA {
    (body(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}
