-- group_behind_a_join
select p.a, count(*) as n, sum(o.c) as s from pairs p join others o on p.a = o.a group by p.a;
-- group_by_the_other_side
select o.a, count(*) as n, sum(p.b) as s from pairs p join others o on p.a = o.a group by o.a;
-- group_by_both_sides
select p.a, o.a, count(*) as n from pairs p join others o on p.a = o.a group by o.a, p.a;
-- group_behind_a_left_join
select p.a, count(*) as n, count(o.c) as m from pairs p left join others o on p.a = o.a group by p.a;
-- group_by_what_a_left_join_fills
select o.a, count(*) as n, sum(p.b) as s from pairs p left join others o on p.a = o.a group by o.a;
-- group_by_what_a_right_join_fills
select p.a, count(*) as n, sum(o.c) as s from pairs p right join others o on p.a = o.a group by p.a;
-- group_behind_a_full_join
select p.a, o.a, count(*) as n from pairs p full join others o on p.a = o.a group by p.a, o.a;
-- group_by_one_of_two_keys
select p.a, count(*) as n from pairs p join others o on p.a = o.a and p.b = o.c group by p.a;
-- group_by_more_than_the_key
select p.a, p.b, count(*) as n from pairs p join others o on p.a = o.a group by p.b, p.a;
-- join_of_joins
select s.id, u.amount from sales s join sales t on s.id = t.id join sales u on t.id = u.id where u.quantity > 5;
-- join_of_groups
select x.a, x.n, y.m from (select a, count(*) as n from pairs group by a) x join (select a, count(*) as m from others group by a) y on x.a = y.a;
-- join_of_groups_of_more
select x.a, x.b, x.n, y.m from (select a, b, count(*) as n from pairs group by a, b) x join (select c, a, count(*) as m from others group by c, a) y on x.a = y.a and x.b = y.c;
-- left_join_of_groups
select x.a, x.n, y.m from (select a, count(*) as n from pairs group by a) x left join (select a, count(*) as m from others group by a) y on x.a = y.a;
-- group_of_groups
select a, count(*) as k, sum(n) as n from (select a, b, count(*) as n from pairs group by a, b) t group by a;
-- group_of_the_same_groups
select b, a, sum(n) as n from (select a, b, count(*) as n from pairs group by a, b) t group by b, a;
-- window_behind_groups
select a, b, n, sum(n) over (partition by a order by b) as s from (select a, b, count(*) as n from pairs group by a, b) t;
-- window_behind_a_join
select s.id, sum(t.quantity) over (partition by s.id order by t.id) as q from sales s join sales t on s.id = t.id where s.id <= 60;
-- group_behind_a_window
select dept_id, max(r) as r from (select dept_id, row_number() over (partition by dept_id order by id) as r from employees) t group by dept_id;
-- two_windows_one_behind_the_other
select id, r, count(*) over (partition by dept_id) as n from (select id, dept_id, rank() over (partition by dept_id order by salary) as r from employees) t;
-- group_under_other_names
select k, count(*) as n from (select p.a as k, o.c as v from pairs p join others o on p.a = o.a) t group by k;
-- group_by_an_expression_of_the_key
select k, count(*) as n from (select p.a % 2 as k from pairs p join others o on p.a = o.a) t group by k;
-- semi_join_and_group
select a, count(*) as n from pairs where a in (select a from others) group by a;
-- anti_join_and_group
select a, count(*) as n from pairs p where not exists (select 1 from others o where o.a = p.a) group by a;
-- not_in_and_group
select a, count(*) as n from pairs where a not in (select a from others where a is not null) group by a;
-- distinct_behind_a_join
select distinct p.a from pairs p join others o on p.a = o.a;
-- group_of_a_distinct
select a, count(*) as n from (select distinct a, b from pairs) t group by a;
-- join_on_an_expression
select p.a, count(*) as n from pairs p join others o on p.a + 1 = o.a group by p.a;
-- join_twice_by_other_keys
select p.a, o.c, q.b from pairs p join others o on p.a = o.a join pairs q on q.b = o.c;
-- union_behind_joins
select a, count(*) as n from (select p.a from pairs p join others o on p.a = o.a union all select a from others) t group by a;
-- rollup_behind_a_join
select p.a, p.b, count(*) as n from pairs p join others o on p.a = o.a group by rollup(p.a, p.b);
-- unnest_behind_a_join
select a, x, count(*) as n from (select p.a, unnest([p.a, p.b]) as x from pairs p join others o on p.a = o.a) t group by a, x;
-- unnested_key_behind_a_join
select x, count(*) as n from (select unnest([p.a, p.b]) as x from pairs p join others o on p.a = o.a) t group by x;
-- counted_distinct_behind_a_join
select p.a, count(distinct o.c) as n, max(p.b) as m from pairs p join others o on p.a = o.a group by p.a;
-- correlated_behind_groups
select a, n from (select a, count(*) as n from pairs group by a) x where n > (select count(*) from others o where o.a = x.a);
