-- count_up
with recursive r(n) as (select 1 union all select n + 1 from r where n < 200) select count(*) as c, sum(n) as s, max(n) as m from r;
-- managers
with recursive chain(id, manager_id, depth) as (
  select id, manager_id, 1 from employees where manager_id is null
  union all
  select e.id, e.manager_id, c.depth + 1 from employees e join chain c on e.manager_id = c.id
) select id, depth from chain order by id;
-- reachable
with recursive reach as (
  select a, b from pairs where a is not null and b is not null
  union
  select r.a, p.b from reach r join pairs p on r.b = p.a where p.b is not null
) select a, b from reach;
-- distinct_ends_a_circle
with recursive r(n) as (select 0 union select (n + 3) % 7 from r) select n from r order by n;
-- two_uses
with recursive r(n) as (select 1 union all select n + 1 from r where n < 5) select x.n as a, y.n as b from r x join r y on x.n + y.n = 6;
-- recursion_in_a_subquery
select id from employees where id in (with recursive r(n) as (select 2 union all select n * 2 from r where n < 30) select n from r) order by id;
-- nested_recursion
with recursive outside(n) as (
  select 1
  union all
  select n + 10 from outside where n < 25
), inside(n, m) as (
  select n, n + 0 from outside
  union all
  select n, m + 1 from inside where m < n + 3
) select n, count(*) as c, sum(m) as s from inside group by n order by n;
-- nothing_to_begin_with
with recursive r(n) as (select id from employees where id < 0 union all select n + 1 from r) select count(*) as c from r;
-- nulls_and_texts
with recursive r(n, t) as (select 1, cast('x' as varchar) union all select n + 1, case when n % 3 = 0 then null else coalesce(t, '') || 'y' end from r where n < 10) select n, t from r order by n;
-- exists_in_the_term
with recursive r(n) as (select 1 union all select n + 1 from r where exists (select 1 from employees e where e.id = n + 1)) select count(*) as c, max(n) as m from r;
